"Pairs by machine: what a failure leaves behind, that a key is written nowhere, and real chat models, local and behind an API."

import json
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from empathy_probes.machine.concepts import ConceptError, load_concept, read_pairs
from empathy_probes.machine.pairs import WRITING, Answer, ModelCallFailed, NoUsableAnswer, api_model, fault
from empathy_probes.machine.pairs import local_model, make_pairs
from empathy_probes.machine.weights import byte_tokenizer, random_model

from conftest import FAMILIES

REGISTER = load_concept("register")
SCENARIOS = REGISTER.scenarios
TEXT = "I put the bucket down and read the letter twice before I answered her"
ASKED = {"scenarios": SCENARIOS, "prompts": REGISTER.prompts, "per_scenario": {"train": 2, "test": 2}, "words": 15}
KEY = "sk-made+up/0123456789"
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<model>"


def willing(system, user, seed):
    return Answer(f"{TEXT} {seed}.", "stop")


def failing_at(number: int, error: BaseException):
    "A model that answers, and raises at one call."
    calls = []

    def ask(system, user, seed):
        calls.append(seed)
        if len(calls) == number:
            raise error
        return willing(system, user, seed)
    return ask


@pytest.mark.parametrize("error", [ModelCallFailed("the connection broke"), KeyboardInterrupt()], ids=["failure", "Ctrl-C"])
def test_finished_pairs_outlive_a_failed_call_and_are_not_asked_for_again(tmp_path, error):
    whole = make_pairs(tmp_path / "whole.jsonl", models={"m": willing}, **ASKED).read_text()
    path = tmp_path / "new" / "pairs.jsonl"
    with pytest.raises(type(error)):
        make_pairs(path, models={"m": failing_at(8, error)}, **ASKED)  # the second text of the fourth pair
    kept = path.read_text()
    assert kept == "".join(whole.splitlines(keepends=True)[:3])
    asked = []
    make_pairs(path, models={"m": lambda *call: asked.append(call) or willing(*call)}, **ASKED)
    assert path.read_text() == whole
    assert len(asked) == 2 * (12 - 3)
    assert len(read_pairs([path], SCENARIOS)) == 12


def test_half_a_line_is_dropped_and_a_last_line_without_a_line_break_is_not(tmp_path):
    path = tmp_path / "pairs.jsonl"
    whole = make_pairs(path, models={"m": willing}, **ASKED).read_text()
    path.write_text(whole[:-200])
    make_pairs(path, models={"m": willing}, **ASKED)
    assert path.read_text() == whole
    path.write_text(whole[:-1])
    make_pairs(path, models={"m": willing}, **ASKED)
    assert path.read_text() == whole


def test_pairs_by_hand_are_topped_up_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    by_hand = {"split": "test", "scenario": "the_notice", "positive": "Kindly note.", "negative": "Hiya.", "source": "me"}
    path.write_text(json.dumps(by_hand))
    make_pairs(path, models={"m": willing}, **ASKED)
    pairs = read_pairs([path], SCENARIOS)
    assert pairs.source.tolist() == ["me"] + ["m"] * 11
    assert set(pairs.groupby(["scenario", "split"]).size()) == {2}
    path.write_text(json.dumps(by_hand | {"negative": ""}) + "\n")
    with pytest.raises(ConceptError, match=r"pairs\.jsonl, line 1: the field 'negative' must be a non-empty text"):
        make_pairs(path, models={"m": willing}, **ASKED)


def test_models_take_turns_and_both_texts_of_a_pair_have_one_source(tmp_path):
    def named(name):
        return lambda system, user, seed: Answer(f"{name}: {TEXT} {seed}.", "stop")

    pairs = read_pairs([make_pairs(tmp_path / "pairs.jsonl", models={name: named(name) for name in "abc"}, **ASKED)], SCENARIOS)
    assert pairs.source.tolist() == list("abc") * 4
    assert (pairs.positive.str[0] == pairs.source).all() and (pairs.negative.str[0] == pairs.source).all()


@pytest.mark.parametrize("answer", [Answer(TEXT, "length"), Answer("", "stop"), Answer("No.", "stop"), Answer(f"As an AI I cannot. {TEXT}", "stop"), Answer(TEXT, "stop")])
def test_what_is_no_text_is_asked_for_a_bounded_number_of_times(tmp_path, answer):
    "The last of them is a model that always says the same: the two sides of a pair must differ."
    calls = []
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(NoUsableAnswer, match="the_notice: no usable pair in 4 tries .m, "):
        make_pairs(path, models={"m": lambda *call: calls.append(call) or answer}, tries=4, **ASKED)
    assert 4 <= len(calls) <= 8 and len({seed for _, _, seed in calls}) == len(calls)
    assert not path.exists()


@pytest.mark.parametrize("phrase", WRITING["refusals"])
def test_every_refusal_is_known_in_any_case_and_with_either_apostrophe(phrase):
    for text in (phrase, phrase.upper(), phrase.replace("'", "’")):
        assert fault(Answer(f"Well, {text}. {TEXT}", "stop"), 15).startswith("a refusal")


def test_no_text_of_the_bundled_concepts_passes_for_a_refusal():
    for concept in map(load_concept, ("empathy", "register")):
        for text in [*concept.pairs.positive, *concept.pairs.negative, *concept.completions.text]:
            assert fault(Answer(text, "stop"), 60) == ""


def test_nothing_is_asked_without_a_model_or_a_prompt(tmp_path):
    with pytest.raises(ValueError, match="at least one model"):
        make_pairs(tmp_path / "pairs.jsonl", models={}, **ASKED)
    with pytest.raises(ValueError, match="a system prompt for 'positive' and for 'negative'; there are .'m'. and .'positive'."):
        make_pairs(tmp_path / "pairs.jsonl", models={"m": willing}, **ASKED | {"prompts": {"positive": "Be kind."}})


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_local_chat_model_says_whether_it_finished(tmp_path, name):
    tokenizer, model = byte_tokenizer(), random_model(name, FAMILIES[name])
    tokenizer.chat_template = TEMPLATE
    model.generation_config.eos_token_id = None
    ask = local_model(model, tokenizer, max_new_tokens=6)
    assert ask("Be brief.", "Who is there?", 1).finish_reason == "length"
    with pytest.raises(NoUsableAnswer, match="tiny, positive: not finished"):
        make_pairs(tmp_path / "pairs.jsonl", models={"tiny": ask}, **ASKED)
    model.generation_config.eos_token_id = list(range(3, 259))
    assert ask("Be brief.", "Who is there?", 1).finish_reason == "stop"


def test_without_litellm_the_answer_is_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[api\]'"):
        api_model("openai/gpt-4-turbo")


def test_what_an_api_answers_becomes_text_and_reason(monkeypatch):
    calls = []

    def completion(**call):
        calls.append(call)
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=None), finish_reason="content_filter")])

    monkeypatch.setitem(sys.modules, "litellm", SimpleNamespace(completion=completion))
    assert api_model("openai/gpt-4-turbo")("system", "user", 7) == Answer("", "content_filter")
    [call] = calls
    assert call["model"] == "openai/gpt-4-turbo" and call["seed"] == 7 and "api_key" not in call
    assert call["messages"] == [{"role": "system", "content": "system"}, {"role": "user", "content": "user"}]


def assert_key_is_nowhere(caught, capfd, folder) -> None:
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + "".join(capfd.readouterr())
    assert caught.value.__context__ is None and caught.value.__cause__ is None
    for form in (KEY, "sk-made%2Bup%2F0123456789"):
        assert form not in shown
        assert [path for path in folder.rglob("*") if path.is_file() and form in path.read_text()] == []


def test_a_key_that_an_error_quotes_is_written_nowhere(tmp_path, monkeypatch, capfd):
    "As litellm's errors do where the provider takes the key in the address."
    def completion(**call):
        try:
            raise ConnectionError(f"404 for https://example.org/v1?key={KEY}")
        except ConnectionError as error:
            raise RuntimeError(f"{error} or ?key=sk-made%2Bup%2F0123456789") from error

    monkeypatch.setenv("PROVIDER_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "litellm", SimpleNamespace(completion=completion))
    with pytest.raises(ModelCallFailed, match=r"provider/model: RuntimeError: 404 .*key=\[PROVIDER_API_KEY\] or .*\[PROVIDER_API_KEY\]") as caught:
        make_pairs(tmp_path / "pairs.jsonl", models={"provider/model": api_model("provider/model")}, **ASKED)
    assert_key_is_nowhere(caught, capfd, tmp_path)


@pytest.fixture
def server():
    "An API on this machine: answers three times, then fails and quotes the key."
    class Handler(BaseHTTPRequestHandler):
        requests = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.requests.append(body)
            if len(self.requests) > 3:
                status, answer = 400, {"error": {"message": f"bad key {KEY}", "type": "invalid_request_error"}}
            else:
                message = {"role": "assistant", "content": f"{TEXT} {body['seed']}."}
                status, answer = 200, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_the_real_litellm_against_an_api_on_this_machine(tmp_path, monkeypatch, capfd, server):
    pytest.importorskip("litellm", reason="the extra 'api' is not installed")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(ModelCallFailed, match=r"openai/m: BadRequestError: .*bad key \[OPENAI_API_KEY\]") as caught:
        make_pairs(path, models={"openai/m": api_model("openai/m")}, **ASKED)
    [pair] = map(json.loads, path.read_text().splitlines())
    assert pair["source"] == "openai/m" and pair["positive"].startswith(TEXT)
    assert [message["role"] for message in server.RequestHandlerClass.requests[0]["messages"]] == ["system", "user"]
    assert_key_is_nowhere(caught, capfd, tmp_path)
