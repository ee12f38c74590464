"The pages of the API, from the docments of the public functions and classes: one page per part of the library."
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

from fastcore.docments import docments

from book.shared import CHAPTERS, ROOT, table, title_of, toctree


def modules(part: str) -> list[tuple[Path, ModuleType]]:
    "The chapters of a part that make a module, in their order, and these modules."
    found = []
    for path in sorted((ROOT / "nbs" / part).glob("*.ipynb")):
        chapter = path.relative_to(ROOT)
        name = re.search(r"#\| default_exp (\S+?)[\\\"]", path.read_text(encoding="utf-8"))
        found += [(chapter, import_module(f"empathy_probes.{name[1]}"))] if name else []
    return found


def public(module: ModuleType) -> list:
    "Its public functions and classes."
    values = [getattr(module, name) for name in module.__all__]
    return [value for value in values if inspect.isfunction(value) or inspect.isclass(value)]


def type_name(annotation) -> str:
    "`ndarray | Tensor` for `numpy.ndarray | torch.Tensor`; empty for none."
    if annotation is inspect.Parameter.empty:
        return ""
    return "`" + re.sub(r"\b(\w+\.)+(?=\w)", "", inspect.formatannotation(annotation)) + "`"


def parameters(value) -> str:
    "The parameters of a function and what it returns, or the fields of a class, as a table; empty without any."
    lines = []
    for name, found in docments(value, full=True, returns=not inspect.isclass(value)).items():
        name = "**returns**" if name == "return" else f"`{name}`"
        about = " ".join((found.docment or "").split())
        if found.anno is not inspect.Parameter.empty or about:
            lines.append([name, type_name(found.anno), about])
    return table(["parameter", "type", "what it is"], lines) if lines else ""


def signature(value) -> str:
    "Names and defaults; the types are in the table."
    found = inspect.signature(value)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return f"{value.__name__}{found.replace(parameters=plain, return_annotation=inspect.Signature.empty)}"


def entry(value) -> str:
    "One function or class: its signature, the first paragraph of its docstring, and its parameters."
    error = inspect.isclass(value) and issubclass(value, Exception)
    kind = "exception" if error else "class" if inspect.isclass(value) else "function"
    head = f"````{{py:{kind}}} {value.__name__ if error else signature(value)}\n:module: {value.__module__}"
    first = inspect.getdoc(value).strip().split("\n\n")[0]
    return "\n\n".join([head, first, "" if error else parameters(value), "````"])


def api_page(part: str) -> str:
    "A part's modules, each with a link to its chapter."
    texts = [f"# {part} (API)"]
    for chapter, module in modules(part):
        name = module.__name__.removeprefix("empathy_probes.")
        about = f"{module.__doc__.rstrip('.')}. Chapter: [{title_of(chapter)}](/{chapter})"
        texts += [f"## {name}", about, *map(entry, public(module))]
    return "\n\n".join(texts)


def api_pages() -> dict[str, str]:  # text by page
    "All pages of the API."
    names = {part: [module.__name__.split(".")[-1] for _, module in modules(part)] for part in CHAPTERS}
    lines = [f"- [{part}](/api/{part}.md): {', '.join(found)}" for part, found in names.items()]
    about = "Every public function and class, with the comments beside its parameters; {ref}`genindex` goes by letter."
    index = "\n\n".join(["# API", about, "\n".join(lines), toctree(f"api/{part}.md" for part in CHAPTERS)])
    return {"api/index.md": index} | {f"api/{part}.md": api_page(part) for part in CHAPTERS}
