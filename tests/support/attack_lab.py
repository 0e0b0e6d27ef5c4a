"""Teachers behind the real gate, in process, and the data of attackers."""

from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from audit_fakes import striped
from stingy_attacker_eval.attacks import Attack, AttackerData, Capability
from stingy_attacker_eval.datasets.datasets import Images, load_dataset
from stingy_attacker_eval.oracle.oracle import Answers
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.students import Cnn, cnn
from stingy_attacker_eval.training import (
    TrainResult,
    TrainSettings,
    normalise,
    percent_equal,
    predict,
    to_device,
    train,
)
from stingy_clients import ModelInfo
from stingy_protection import (
    NoisyPolicy,
    Policy,
    build_policy,
    keyed_noise,
    parse_policy,
    sanitize,
)

CPU = torch.device("cpu")
QUICK = TrainSettings(epochs=3, batch=32, lr=0.05)


@dataclass
class TeacherOracle:
    """A network behind a policy's gate, as in the server.

    requests: the sizes of the requests, in images.
    """

    network: nn.Module
    policy: Policy
    model: str = "pets"
    max_batch: int = 256
    requests: list[int] = field(default_factory=list)

    def describe(self) -> ModelInfo:
        return ModelInfo(
            name=self.model,
            version="1",
            num_classes=self.policy.num_classes,
            labels=tuple(str(label) for label in range(self.policy.num_classes)),
            policy=self.policy.name,
            support=self.policy.support,
            scores=str(self.policy.scores),
            decimals=self.policy.decimals,
            fingerprint=self.policy.fingerprint,
            image_size=(8, 8),
            max_batch=self.max_batch,
        )

    @torch.inference_mode()
    def query(self, images: Images) -> Answers:
        self.requests.append(len(images))
        noise = None
        if isinstance(self.policy, NoisyPolicy):
            noise = keyed_noise(bytes(16), torch.from_numpy(images), self.policy.num_classes)
        logits = self.network(normalise(to_device(images, CPU)))
        answer = sanitize(self.policy, logits, noise=noise)
        scores = None if answer.scores is None else answer.scores.numpy()
        return Answers(answer.indices.numpy(), scores, self.policy.num_classes, str(answer.form))

    def charged(self) -> int:
        return sum(self.requests)


@cache
def digits() -> tuple[Images, Tensor, Images, Tensor]:
    """Load 600 training images and 400 test images, with their labels."""
    data = load_dataset("digits")
    train_y, test_y = torch.from_numpy(data.train_y), torch.from_numpy(data.test_y)
    return data.train_x[:600], train_y[:600], data.test_x[:400], test_y[:400]


@cache
def digits_teacher() -> Cnn:
    """Train a teacher to about 95 % of the digits, in two seconds."""
    data = load_dataset("digits")
    images, labels = to_device(data.train_x, CPU), torch.from_numpy(data.train_y)
    torch.manual_seed(0)
    teacher = cnn(num_classes=10, width=16)
    train(
        teacher,
        images,
        lambda logits, rows, _: functional.cross_entropy(logits, labels[rows]),
        settings=TrainSettings(epochs=6, batch=64, lr=0.1, augment=1),
        seed=0,
    )
    return teacher.eval()


def digits_oracle(policy: str = "stingy", **options: object) -> TeacherOracle:
    """Put the digits teacher behind a policy: "stingy", "stingy:n=5", "label", ..."""
    name, more = parse_policy(policy)
    return TeacherOracle(digits_teacher(), build_policy(name, num_classes=10, **(more | options)))


def striped_oracle(policy: str = "stingy:n=2") -> TeacherOracle:
    """Put a network that finds the brightest channel, the classes of `striped`, behind a policy."""
    name, more = parse_policy(policy)
    return TeacherOracle(_BrightestChannel(), build_policy(name, num_classes=3, **more))


class _BrightestChannel(nn.Module):
    """A network with logits `[batch, 3]`: ten times each channel's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(10 * torch.eye(3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(images.mean(dim=(2, 3)))
        return logits


def attacker_data(
    oracle: TeacherOracle, images: Images | None = None, labels: Tensor | None = None
) -> AttackerData:
    """Return the data of an attacker of this oracle; by default with the striped images."""
    if images is None:
        images, truth = striped(64)
        labels = torch.from_numpy(truth)
    assert labels is not None
    data = AttackerData.from_answers(
        to_device(images, CPU), labels, oracle.query(images), oracle.describe()
    )
    return replace(data, session=QuerySession(oracle, budget=10_000), network=oracle.network)


def digits_data(oracle: TeacherOracle) -> AttackerData:
    images, labels, _, _ = digits()
    return attacker_data(oracle, images, labels)


def run(
    attack: Attack,
    data: AttackerData,
    *,
    student: nn.Module | None = None,
    settings: TrainSettings = QUICK,
    seed: int = 0,
) -> TrainResult:
    """Run the attack on a new student, with a session of the attack's budget."""
    torch.manual_seed(seed)
    classes = data.info.num_classes if data.info is not None else 3
    student = student or cnn(num_classes=classes, width=4)
    if data.session is not None and Capability.QUERIES in attack.requires:
        budget = attack.budget(len(data.images))
        data = replace(data, session=QuerySession(data.session._oracle, budget=budget))
    return attack.run(student, data, settings=settings, seed=seed)


def digits_accuracy(
    attack: Attack, oracle: TeacherOracle, *, settings: TrainSettings, seed: int = 0
) -> float:
    """Return a student's accuracy on the digits, in percent, after this attack on this oracle."""
    torch.manual_seed(seed)
    student = cnn(num_classes=10, width=8)
    result = run(attack, digits_data(oracle), student=student, settings=settings, seed=seed)
    assert result.finite
    _, _, test_x, test_y = digits()
    return percent_equal(predict(student, to_device(test_x, CPU)).numpy(), test_y.numpy())


def digits_mean(attack: Attack, oracle: TeacherOracle, *, settings: TrainSettings) -> float:
    """Average `digits_accuracy` over three seeds, because one seed alone may be lucky."""
    seeds = range(3)
    return sum(digits_accuracy(attack, oracle, settings=settings, seed=s) for s in seeds) / 3
