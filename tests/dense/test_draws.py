"""Initial values are drawn once: the last ones, in the order in which they were asked for."""

import contextlib

import pytest
import torch
from torch import nn

from rm.dense import draws
from rm.dense.draws import LastDraws
from rm.trainer import Trainer
from rm.trial import parse_trial
from tests.support.rm.dense import HEADS, values


def drawn(*sizes):
    """What a generator of seed 0 gives tensors of these sizes, one after the other."""
    torch.manual_seed(0)
    return [torch.empty(size).normal_() for size in sizes]


def equal(tensors, others):
    return all(map(torch.equal, tensors, others))


def test_what_is_written_over_is_not_drawn():
    a, b, c, d = (torch.empty(size) for size in (20, 30, 40, 50))
    torch.manual_seed(0)
    with LastDraws():
        for tensor in (a, b, c, d):
            tensor.uniform_()
        c.normal_()
        a.normal_()
        b.fill_(2.0)
        d.copy_(torch.arange(50.0))
    assert equal((c, a), drawn(40, 20))
    assert torch.equal(b, torch.full((30,), 2.0))
    assert torch.equal(d, torch.arange(50.0))


@pytest.mark.parametrize(
    "read",
    [
        lambda t, other: t.mean(),
        lambda t, other: other.copy_(t),
        lambda t, other: torch.cat([other, t]),
        lambda t, other: torch._foreach_add([other, t], 1),
        lambda t, other: t[3].item(),
        lambda t, other: t[:4].fill_(7),
        lambda t, other: t.copy_(t.flip(0)),
        lambda t, other: t.copy_(t),
        lambda t, other: t.mul_(2),
        lambda t, other: t.view(5, 4)[1].add_(1),
        lambda t, other: other.add_(t),
        lambda t, other: torch.add(other, 1, out=t[:20]),
    ],
)
def test_what_is_read_is_drawn_before(read):
    """Or partly written over: with values as outside of a block."""
    outcomes = []
    for block in (contextlib.nullcontext, LastDraws):
        t, other = torch.empty(20, requires_grad=True), torch.zeros(20)
        torch.manual_seed(0)
        with torch.no_grad(), block():
            result = read(t.normal_(), other)
        outcomes.append((t, other, result))
    (t, other, result), (t_waited, other_waited, result_waited) = outcomes
    assert torch.equal(t, t_waited)
    assert torch.equal(other, other_waited)
    assert str(result) == str(result_waited)


def test_other_random_operators_keep_their_turn():
    outcomes = []
    for block in (contextlib.nullcontext, LastDraws):
        torch.manual_seed(0)
        with block():
            layer = nn.Linear(30, 20)
            dropped = torch.bernoulli(torch.full((9,), 0.5))
            small = nn.init.trunc_normal_(torch.empty(7))
            last = torch.empty(5).exponential_()
        outcomes.append((layer.weight, layer.bias, dropped, small, last))
    assert equal(*outcomes)


def test_a_generator_of_ones_own_is_used_at_once():
    own, t = torch.Generator(), torch.empty(20)
    own.manual_seed(0)
    with LastDraws():
        t.normal_(generator=own)
        before = t.clone()
    assert equal((before, t), drawn(20) * 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_large_tensors_have_generators_of_their_own(threads, monkeypatch):
    """Whose values are the same however many threads draw them, between small ones that have
    those that torch would give.
    """
    monkeypatch.setattr(draws, "_LARGE", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    tensors = [torch.empty(size, requires_grad=True) for size in (20, 1000, 5000, 30)]
    small, large, larger, last = tensors
    torch.manual_seed(0)
    with torch.no_grad(), LastDraws():
        small.normal_()
        large.normal_(2, 3)
        larger.uniform_(-1, 1)
        last.normal_()
    torch.manual_seed(0)
    assert torch.equal(small, torch.empty(20).normal_())
    one, other = (
        torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ()))) for _ in range(2)
    )
    assert torch.equal(large, torch.empty(1000).normal_(2, 3, generator=one))
    assert torch.equal(larger, torch.empty(5000).uniform_(-1, 1, generator=other))
    assert torch.equal(last, torch.empty(30).normal_())


def test_an_error_in_a_thread_is_no_silent_loss(monkeypatch):
    monkeypatch.setattr(draws, "_LARGE", 10)
    with pytest.raises(RuntimeError, match="from"), LastDraws():
        torch.empty(20).uniform_(2, 1)


@pytest.mark.parametrize("head", HEADS)
def test_a_network_has_weights_of_the_same_kind_as_without(head, monkeypatch):
    """Constants are equal; what is drawn differs in mean and deviation as other draws would."""
    trial, device = parse_trial(values(head)), torch.device("cpu")
    waited = Trainer(trial, device).task.state_dict()
    monkeypatch.setattr(draws, "LastDraws", contextlib.nullcontext)
    at_once = Trainer(trial, device).task.state_dict()
    assert list(waited) == list(at_once)
    for name, value in at_once.items():
        if torch.equal(value, waited[name]):
            continue
        n, deviation = value.numel(), value.std()
        assert (value.mean() - waited[name].mean()).abs() < 8 * deviation / n**0.5, name
        assert (deviation - waited[name].std()).abs() < 8 * deviation / n**0.5, name
