"""The pages that lead from the paper to the code and back: "From the paper to the code", and the claims.

paper.csv has a line for what a notebook makes of a thing in the paper; tests/test_book.py holds it to the notebooks, functions
and files that exist.
"""
import re
from pathlib import Path

import pandas as pd

from book.shared import ROOT, on_github, page_of, table, title_of
from empathy_probes.evidence.verdicts import VERDICTS

KINDS = {
    "equation": "Equations",
    "table": "Tables",
    "figure": "Figures",
    "claim": "Claims",
    "more": "Behind the numbers, and beyond them",
}
ABOUT = """# From the paper to the code

What is in the paper, the notebook that makes it here, the function that does the work, and the file that comes out. The
notebook's page leads back to here. Of a table or figure that is made twice, the first line is of our own models, and the
second of the paper's released data.
"""
ABOUT_CLAIMS = """# The paper's claims

The paper's author released the data behind most of its numbers. The numbers of the abstract, results, tables and captions were
computed again from them, without a model. Of each claim, this is how many numbers it rests on, and what became of them.
[Section C2]({page}) explains the verdicts, and [a table]({table}) has every number.
"""


def rows() -> pd.DataFrame:
    "paper.csv, with an address for each thing of the paper."
    table = pd.read_csv(ROOT / "book/paper.csv", keep_default_na=False)
    return table.assign(address=table["item"].map(address))


def address(item: str) -> str:
    "`paper-table-1` for `Table 1`."
    return "paper-" + re.sub(r"[^a-z0-9]+", "-", item.lower()).strip("-")


def backlinks(home: Path) -> str:
    "From a notebook's page to its rows, by the notebook's place in nbs/; empty if it has none."
    own = rows()[rows().notebook == "/".join(home.with_suffix("").parts[1:])].drop_duplicates("item")
    links = [f"[{item}](#{place})" for item, place in zip(own["item"], own["address"])]
    return f"*In the paper: {' · '.join(links)}.*" if links else ""


def notebook_link(notebook: str) -> str:
    "A notebook's page, by its path in nbs/ without the ending."
    path = Path("nbs", f"{notebook}.ipynb")
    return f"[{title_of(path)}](/{page_of(path)})"


def function_link(name: str) -> str:
    "A function's place in the API."
    return f"{{py:obj}}`{name.split('.')[-1]} <empathy_probes.{name}>`"


def file_link(name: str) -> str:
    "A file in figures/, on GitHub."
    return f"[{name}]({on_github(Path('figures', name))})" if name else ""


def paper_page() -> str:
    "From the paper to the code."
    texts = [ABOUT]
    for kind, title in KINDS.items():
        lines, seen = [], set()
        for _, row in rows()[rows().kind == kind].iterrows():
            name = row["item"] if row["address"] in seen else f"[{row['item']}]{{#{row['address']}}}"
            what = f"[verdict](#claim-{row['address']})" if kind == "claim" else row["what"]
            seen.add(row["address"])
            made = notebook_link(row["notebook"]), function_link(row["function"]), file_link(row["file"])
            lines.append([name, what, *made])
        texts += [f"## {title}", table(["in the paper", "what", "notebook", "function", "file"], lines)]
    return "\n\n".join(texts)


def released(name: str) -> pd.DataFrame:
    "A table of what the released data gave."
    return pd.read_csv(ROOT / f"figures/published/{name}.csv", keep_default_na=False)


def claims_page() -> str:
    "The claims: a table of verdicts, then each with what was found and what computes it."
    summary, numbers = released("claims_summary"), released("claims")
    page, every = page_of(Path("nbs/sections/c2_claims.ipynb")), on_github(Path("figures/published/claims.md"))
    lines, texts = [], []
    for _, row in summary.iterrows():
        place = f"claim-{address(row['claim'])}"
        functions = sorted({name for name in numbers[numbers.claim == row["claim"]].function if name})
        lines.append([f"[{row['claim']}](#{place})", row["numbers"], *row[list(VERDICTS)]])
        texts += [f"({place})=\n## {row['claim']}", row["finding"], claim_links(row, functions)]
    about = ABOUT_CLAIMS.format(page=f"/{page}", table=every)
    return "\n\n".join([about, table(["claim", "numbers", *VERDICTS], lines), *texts])


def claim_links(claim: pd.Series, functions: list[str]) -> str:
    "Where a claim stands in the paper, what computes its numbers again, and where our own models are asked the same."
    ours = rows()[rows().item == claim["claim"]]
    asked = [f"{notebook_link(row['notebook'])}, {function_link(row['function'])}" for _, row in ours.iterrows()]
    return "\n".join([
        f"- In the paper: {claim['where']}",
        f"- Computed again by {', '.join(map(function_link, functions))}",
        f"- On our own models: {'; '.join(asked)}",
    ])
