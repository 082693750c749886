"""One encoder pass serves all tasks that share an encoder, and says what separate passes say."""

import numpy as np
import pytest
import torch

from tests.training.predict.conftest import SIZE
from training.config import UsageError
from training.models.task import load_task
from training.predict.models import choose_device, load_models

CPU = torch.device("cpu")


def views(count: int = 3) -> dict[tuple[int, int], np.ndarray]:
    return {SIZE: np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)}


def test_tasks_of_one_encoder_share_its_pass(checkpoints):
    models = load_models(checkpoints, CPU)
    assert [sorted(group.models) for group in models.groups] == [["depth", "parts", "pose"], ["normals"]]
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for group in models.groups:
        for model in group.models.values():
            model.encoder.register_forward_hook(count)
    models(views())
    assert passes == 2


def test_shared_and_separate_passes_agree_with_the_models_themselves(checkpoints):
    together, apart = load_models(checkpoints, CPU), load_models(checkpoints, CPU, share=False)
    assert len(apart.groups) == 4
    first, second = together(views()), apart(views())
    for task, path in checkpoints.items():
        with torch.no_grad():
            alone = load_task(path).model(torch.from_numpy(views()[SIZE])).numpy()
        np.testing.assert_allclose(first[task], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(second[task], alone, rtol=1e-5, atol=1e-6)
        assert first[task].dtype == np.float32


def test_bf16_stays_close_and_comes_back_as_float32(checkpoints):
    exact, rough = load_models(checkpoints, CPU), load_models(checkpoints, CPU, precision="bf16")
    for task, output in rough(views()).items():
        assert output.dtype == np.float32
        wanted = exact(views())[task]
        assert np.abs(output - wanted).max() < 0.1 * np.abs(wanted).max()


def test_a_checkpoint_of_another_task_is_named(checkpoints):
    with pytest.raises(UsageError, match=r"--pose is .*depth\.safetensors, which was trained for depth"):
        load_models({"pose": checkpoints["depth"]}, CPU)
    with pytest.raises(UsageError, match="give at least one of --pose"):
        load_models({}, CPU)


@pytest.mark.parametrize(("name", "says"), [("tpu", "allowed are"), ("meta", "allowed are"), ("cuda:77", "sees")])
def test_a_device_that_is_not_there_is_one_sentence(name: str, says: str):
    with pytest.raises(UsageError, match=says):
        choose_device(name)
