"Games in every family of models: a decision in a batch is what the model says of the whole text; a killed game goes on."

import numpy as np
import pytest
import torch
from conftest import FAMILIES, byte_tokenizer
from test_batch import whole_text
from test_generation import WIDTH

from empathy_probes.games.forks import Scene, at_forks, read_scene, scene_tokens
from empathy_probes.games.play import play_on
from empathy_probes.games.transcripts import action_paths, transcript
from empathy_probes.games.world import WORLDS
from empathy_probes.machine.shared_prompts import Row
from empathy_probes.machine.weights import random_model
from empathy_probes.method.directions import random_direction

TOKENIZER = byte_tokenizer()
DIRECTION = 5 * random_direction(WIDTH, "games")
SHORT = {"max_position_embeddings", "n_positions", "seq_length"}  # what a family calls the most positions that it has


def model_of(family):
    "A random model that has room for a game of single bytes."
    return random_model(family, {key: max(size, 4096) if key in SHORT else size for key, size in FAMILIES[family].items()})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decision_in_a_batch_is_that_of_the_whole_text(family):
    "At every fork, with and without a push, and with the direction projected out; also behind sliding windows."
    model, scene = model_of(family), Scene("the_duel", 1, "distress")
    tokens, games = scene_tokens(TOKENIZER, scene, "low", chat_template=False), at_forks(scene, "low")
    rows = [Row(tokens["later"], **how) for how in ({}, {"pushes": {1: DIRECTION}}, {"ablated": DIRECTION})]
    lengths = {fork: [len(ids)] * len(rows) for fork, ids in tokens.items()}
    found = read_scene(model, TOKENIZER, games, rows, lengths, {"plea": np.random.default_rng(0).random(3)})
    for fork, game in games.items():
        assert all(isinstance(row["text"], str) == (fork == "plea") for row in found[fork])
        for key, path in action_paths(TOKENIZER, game.actions()).items():
            for row, of_row in zip(rows, found[fork]):
                log_p = whole_text(model, row, tokens[fork] + path).log_softmax(-1)
                places = range(len(tokens[fork]) - 1, len(tokens[fork]) - 1 + len(path))
                expected = sum(log_p[place, token].item() for place, token in zip(places, path))
                assert of_row["actions"][key] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom"])
def test_a_game_among_others_is_the_game_alone(family):
    model, names = model_of(family), ["the_duel", "the_listener"]

    def played(numbers):
        "The decisions of some of the games, by number."
        games = [WORLDS[names[number]](number) for number in numbers]
        rows = [Row(transcript(TOKENIZER, game, [], False), {1: DIRECTION} if number else {}) for number, game in zip(numbers, games)]
        noise = [np.random.default_rng(number).random(game.steps) for number, game in zip(numbers, games)]
        with torch.inference_mode():
            turns = [row for decided in play_on(model, TOKENIZER, False, games, rows, noise) for row in decided]
        return {number: [row for row in turns if row["game"] == place] for place, number in enumerate(numbers)}

    together = played([0, 1])
    for number in (0, 1):
        alone = played([number])[number]
        assert [row["action"] for row in alone] == [row["action"] for row in together[number]]
        for one, other in zip(alone, together[number]):
            assert [*one["log_p"].values()] == pytest.approx([*other["log_p"].values()], abs=5e-3)
