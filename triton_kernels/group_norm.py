"""y = activation(n · weight + bias), n = (x − mean) · rstd, with mean and rstd of groups of neighbouring channels, and its gradients:
with dz the gradient before the activation and g = dz · weight, dx = rstd · (g − mean(g) − n · mean(g · n)), dweight = Σ dz · n,
dbias = Σ dz.

Where the channels come first a group is contiguous, and a program holds whole groups (up to 16384 numbers): x is read once and y
written once. Otherwise shares of the positions of each channel are summed first, the sums are merged into those of the groups, and
x is read again, mostly out of the L2 cache. Backward does so in any case.

Tiles lie as the numbers do: with LAST, positions are down and channels across, else channels are down and positions across.
"""
import triton
import triton.language as tl

from .activation import activate, activate_backward
from .device import accumulator, load, multiple
from .launch import TILE, align, ceil_div, launch, power_of_two, tile
from .parts import sum_parts


@triton.jit
def parameter(vector, at, live, otherwise, acc: tl.constexpr):
    value = at * 0 + tl.full((), otherwise, acc)
    if vector is not None:
        value = load(vector, at, live, acc)
    return value


@triton.jit
def held_kernel(y, mean, rstd, x, weight, bias, x_batch, batch, groups, each, positions, eps: tl.float64, ACTIVATION: tl.constexpr,
                ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    size = multiple(each * positions, ALIGN)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_DIM)
    there = row < batch * groups
    live = there[:, None] & (col < size)[None, :]
    group = row % groups
    xs = load(x, (row // groups * multiple(x_batch, ALIGN) + group * size)[:, None] + col[None, :], live, acc)
    m = tl.sum(xs, 1) / size
    away = tl.where(live, xs - m[:, None], 0.0)
    r = tl.rsqrt(tl.sum(away * away, 1) / size + tl.full((), eps, acc))
    tl.store(mean + row, m, mask=there)
    tl.store(rstd + row, r, mask=there)
    channel = (group * each)[:, None] + (col // positions)[None, :]
    ys = away * (r[:, None] * parameter(weight, channel, live, 1.0, acc)) + parameter(bias, channel, live, 0.0, acc)
    tl.store(y + row[:, None] * size + col[None, :], activate(ys, ACTIVATION), mask=live)


@triton.jit
def across(vector, LAST: tl.constexpr):
    """Of each channel, in a tile."""
    if LAST:
        vector = vector[None, :]
    else:
        vector = vector[:, None]
    return vector


@triton.jit
def along(vector, LAST: tl.constexpr):
    """Of each position, in a tile."""
    if LAST:
        vector = vector[:, None]
    else:
        vector = vector[None, :]
    return vector


@triton.jit
def place(channel, position, channels, positions, LAST: tl.constexpr, ALIGN: tl.constexpr):
    """Where the numbers of a tile are within an input."""
    if LAST:
        at = position.to(tl.int64)[:, None] * multiple(channels, ALIGN) + channel[None, :]
    else:
        at = channel.to(tl.int64)[:, None] * multiple(positions, ALIGN) + position[None, :]
    return at


@triton.jit
def own_share(channels, positions, parts, share, BLOCK_CHANNELS: tl.constexpr):
    """Input, channels, first position, the one after the last, and the row of partial of a program. Programs are counted along the
    channels first, then along the shares."""
    tiles = tl.cdiv(channels, BLOCK_CHANNELS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    channel = tl.program_id(0) % tiles * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    part = (row % parts).to(tl.int32)
    first = part * share
    return row // parts, channel, first, tl.minimum(first + share, positions), row


@triton.jit
def moments_kernel(means, squares, x, x_batch, channels, positions, parts, share, LAST: tl.constexpr, ALIGN: tl.constexpr,
                   BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    axis: tl.constexpr = 0 if LAST else 1
    if LAST:
        channels = multiple(channels, ALIGN)
    else:
        positions = multiple(positions, ALIGN)
    n, channel, first, last, row = own_share(channels, positions, parts, share, BLOCK_CHANNELS)
    x += n * multiple(x_batch, ALIGN)
    # Of each lane: how many it has seen, their mean and Σ (x − mean)².
    seen = across(channel, LAST) * along(tl.arange(0, BLOCK_POSITIONS), LAST) * tl.zeros((), acc)
    lane_means, own = seen, seen
    for start in range(first, last, BLOCK_POSITIONS):
        position = start + tl.arange(0, BLOCK_POSITIONS)
        live = across(channel < channels, LAST) & along(position < last, LAST)
        xs = load(x, place(channel, position, channels, positions, LAST, ALIGN), live, acc)
        seen += tl.where(live, 1.0, 0.0).to(acc)
        away = tl.where(live, xs - lane_means, 0.0)
        lane_means += away / tl.maximum(seen, 1.0)
        own += away * (xs - lane_means)
    total = tl.maximum((last - first).to(acc), 1.0)
    m = tl.sum(lane_means * seen, axis) / total
    away = lane_means - across(m, LAST)
    at = row * channels + channel
    tl.store(means + at, m, mask=channel < channels)
    tl.store(squares + at, tl.sum(own + seen * away * away, axis), mask=channel < channels)


@triton.jit
def entries_of(row, groups, each, parts, channels, start, BLOCK_ENTRIES: tl.constexpr):
    """Of a group: shares, channels, which of them are there, and where they are in partial."""
    entry = start + tl.arange(0, BLOCK_ENTRIES)[None, :]
    part, channel = entry // each, (row % groups * each)[:, None] + entry % each
    return part, channel, entry < parts * each, ((row // groups * parts)[:, None] + part) * channels + channel


@triton.jit
def merge_kernel(mean, rstd, means, squares, batch, groups, each, channels, positions, parts, share, eps: tl.float64,
                 BLOCK_ROWS: tl.constexpr, BLOCK_ENTRIES: tl.constexpr):
    acc: tl.constexpr = accumulator(means)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    there = (row < batch * groups)[:, None]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_ENTRIES), acc)
    size = tl.cast(positions, acc) * each
    for start in range(0, parts * each, BLOCK_ENTRIES):
        part, channel, live, at = entries_of(row, groups, each, parts, channels, start, BLOCK_ENTRIES)
        count = tl.minimum(tl.maximum(positions - part * share, 0), share).to(acc)
        sums += load(means, at, live & there, acc) * count
    m = tl.sum(sums, 1) / size
    sums = tl.zeros((BLOCK_ROWS, BLOCK_ENTRIES), acc)
    for start in range(0, parts * each, BLOCK_ENTRIES):
        part, channel, live, at = entries_of(row, groups, each, parts, channels, start, BLOCK_ENTRIES)
        count = tl.minimum(tl.maximum(positions - part * share, 0), share).to(acc)
        away = tl.where(live, load(means, at, live & there, acc) - m[:, None], 0.0)
        sums += load(squares, at, live & there, acc) + count * away * away
    tl.store(mean + row, m, mask=row < batch * groups)
    tl.store(rstd + row, tl.rsqrt(tl.sum(sums, 1) / size + tl.full((), eps, acc)), mask=row < batch * groups)


@triton.jit
def apply_kernel(y, mean, rstd, x, weight, bias, x_batch, groups, each, channels, positions, shares, share, LAST: tl.constexpr,
                 ACTIVATION: tl.constexpr, ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr):
    acc: tl.constexpr = accumulator(y)
    if LAST:
        channels = multiple(channels, ALIGN)
    else:
        positions = multiple(positions, ALIGN)
    n, channel, first, last, _ = own_share(channels, positions, shares, share, BLOCK_CHANNELS)
    known, group = channel < channels, n * groups + channel // each
    scale = across(load(rstd, group, known, acc) * parameter(weight, channel, known, 1.0, acc), LAST)
    m, shift = across(load(mean, group, known, acc), LAST), across(parameter(bias, channel, known, 0.0, acc), LAST)
    for start in range(first, last, BLOCK_POSITIONS):
        position = start + tl.arange(0, BLOCK_POSITIONS)
        live = across(known, LAST) & along(position < last, LAST)
        at = place(channel, position, channels, positions, LAST, ALIGN)
        ys = (load(x, n * multiple(x_batch, ALIGN) + at, live, acc) - m) * scale + shift
        tl.store(y + n * channels * positions + at, activate(ys, ACTIVATION), mask=live)


@triton.jit
def before(grad, away, scale, bias, ACTIVATION: tl.constexpr):
    """The gradient by away · scale + bias."""
    if ACTIVATION != 0:
        grad = activate_backward(grad, away * scale + bias, ACTIVATION)
    return grad


@triton.jit
def sum_lanes(lanes, axis: tl.constexpr, x):
    """In float64 where float32 numbers are summed: over all positions of a batch, half of the rounding errors were from here."""
    if x.dtype.element_ty == tl.float32:
        lanes = lanes.to(tl.float64)
    return tl.sum(lanes, axis).to(accumulator(x))


@triton.jit
def sums_kernel(products, sums, grad, x, mean, rstd, weight, bias, grad_batch, x_batch, groups, each, channels, positions, parts,
                share, LAST: tl.constexpr, ACTIVATION: tl.constexpr, ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
                BLOCK_POSITIONS: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    axis: tl.constexpr = 0 if LAST else 1
    if LAST:
        channels = multiple(channels, ALIGN)
    else:
        positions = multiple(positions, ALIGN)
    n, channel, first, last, row = own_share(channels, positions, parts, share, BLOCK_CHANNELS)
    known, group = channel < channels, n * groups + channel // each
    r = load(rstd, group, known, acc)
    m, scale = across(load(mean, group, known, acc), LAST), across(r * parameter(weight, channel, known, 1.0, acc), LAST)
    shift = across(parameter(bias, channel, known, 0.0, acc), LAST)
    by_weight = across(channel, LAST) * along(tl.arange(0, BLOCK_POSITIONS), LAST) * tl.zeros((), acc)
    by_bias = by_weight
    for start in tl.range(first, last, BLOCK_POSITIONS, num_stages=2):
        position = start + tl.arange(0, BLOCK_POSITIONS)
        live = across(known, LAST) & along(position < last, LAST)
        at = place(channel, position, channels, positions, LAST, ALIGN)
        away = load(x, n * multiple(x_batch, ALIGN) + at, live, acc) - m
        dz = before(load(grad, n * multiple(grad_batch, ALIGN) + at, live, acc), away, scale, shift, ACTIVATION)
        by_weight += dz * away
        by_bias += dz
    at = row * channels + channel
    tl.store(products + at, sum_lanes(by_weight, axis, x) * r, mask=known)
    tl.store(sums + at, sum_lanes(by_bias, axis, x), mask=known)


@triton.jit
def means_kernel(means, products, sums, weight, batch, groups, each, channels, positions, parts, BLOCK_ROWS: tl.constexpr,
                 BLOCK_ENTRIES: tl.constexpr):
    acc: tl.constexpr = accumulator(means)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    there = (row < batch * groups)[:, None]
    by_weight, by_bias = tl.zeros((BLOCK_ROWS, BLOCK_ENTRIES), acc), tl.zeros((BLOCK_ROWS, BLOCK_ENTRIES), acc)
    for start in range(0, parts * each, BLOCK_ENTRIES):
        part, channel, live, at = entries_of(row, groups, each, parts, channels, start, BLOCK_ENTRIES)
        w = parameter(weight, channel, live & there, 1.0, acc)
        by_weight += load(products, at, live & there, acc) * w
        by_bias += load(sums, at, live & there, acc) * w
    size = tl.cast(positions, acc) * each
    tl.store(means + row, tl.sum(by_weight, 1) / size, mask=row < batch * groups)
    tl.store(means + batch * groups + row, tl.sum(by_bias, 1) / size, mask=row < batch * groups)


@triton.jit
def gradient_kernel(dx, means, grad, x, mean, rstd, weight, bias, grad_batch, x_batch, batch, groups, each, channels, positions,
                    shares, share, LAST: tl.constexpr, ACTIVATION: tl.constexpr, ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
                    BLOCK_POSITIONS: tl.constexpr):
    acc: tl.constexpr = accumulator(x)
    if LAST:
        channels = multiple(channels, ALIGN)
    else:
        positions = multiple(positions, ALIGN)
    n, channel, first, last, _ = own_share(channels, positions, shares, share, BLOCK_CHANNELS)
    known, group = channel < channels, n * groups + channel // each
    r, w = across(load(rstd, group, known, acc), LAST), across(parameter(weight, channel, known, 1.0, acc), LAST)
    m, slope = across(load(mean, group, known, acc), LAST), across(load(means, group, known, acc), LAST) * r
    shift = across(load(means, batch * groups + group, known, acc), LAST)
    b = across(parameter(bias, channel, known, 0.0, acc), LAST)
    for start in range(first, last, BLOCK_POSITIONS):
        position = start + tl.arange(0, BLOCK_POSITIONS)
        live = across(known, LAST) & along(position < last, LAST)
        at = place(channel, position, channels, positions, LAST, ALIGN)
        away = load(x, n * multiple(x_batch, ALIGN) + at, live, acc) - m
        dz = before(load(grad, n * multiple(grad_batch, ALIGN) + at, live, acc), away, r * w, b, ACTIVATION)
        tl.store(dx + n * channels * positions + at, (dz * w - shift - away * slope) * r, mask=live)


def blocks_of(like, channels, positions, last, per_thread=16):
    """Block sizes for a tile of channels and positions. Of long channels it has one, so that a thread needs what belongs to one."""
    if last:
        blocks = tile(like, positions, channels, widest=1024, per_thread=per_thread)
        names = dict(BLOCK_ROWS="BLOCK_POSITIONS", BLOCK_DIM="BLOCK_CHANNELS")
    else:
        blocks = tile(like, channels if positions < 1024 else 1, positions, widest=TILE, per_thread=per_thread)
        names = dict(BLOCK_ROWS="BLOCK_CHANNELS", BLOCK_DIM="BLOCK_POSITIONS")
    return {names.get(name, name): size for name, size in blocks.items()}


def write_blocks(like, batch, channels, positions, last):
    """Block sizes, programs, and into how many shares of how many positions each input is cut where a tile is read and written. What
    belongs to the channels is read once for up to four tiles, as long as there are enough programs to fill a GPU."""
    blocks = blocks_of(like, channels, positions, last, per_thread=32 if last else 16)
    beside, tiles = batch * ceil_div(channels, blocks["BLOCK_CHANNELS"]), ceil_div(positions, blocks["BLOCK_POSITIONS"])
    share = blocks["BLOCK_POSITIONS"] * (min(max(beside * tiles // 1024, 1), 4) if last else 1)
    shares = ceil_div(positions, share)
    return beside * shares, (shares, share), blocks


def group_blocks(like, groups, entries):
    blocks = tile(like, groups, entries, widest=1024)
    return dict(BLOCK_ROWS=blocks["BLOCK_ROWS"], BLOCK_ENTRIES=blocks["BLOCK_DIM"], num_warps=blocks["num_warps"])


def sizes(x, last):
    return (x.shape[0], x.shape[2], x.shape[1]) if last else x.shape


def group_norm_forward(y, mean, rstd, partial, x, weight, bias, groups, last, eps, activation):
    batch, channels, positions = sizes(x, last)
    each = channels // groups
    if partial is None:
        size = each * positions
        aligned, blocks = align(size, x.stride(0)), tile(x, batch * groups, size, 2 * power_of_two(size), per_thread=32)
        launch(x, held_kernel, ceil_div(batch * groups, blocks["BLOCK_ROWS"]), y, mean, rstd, x, weight, bias, x.stride(0), batch,
               groups, each, positions, eps, activation, aligned, **blocks)
        return
    aligned, parts = align(x.shape[2], x.stride(0)), partial.shape[0] // 2 // batch
    share, (means, squares) = ceil_div(positions, parts), partial.chunk(2)
    blocks = blocks_of(x, channels, share, last)
    launch(x, moments_kernel, batch * parts * ceil_div(channels, blocks["BLOCK_CHANNELS"]), means, squares, x, x.stride(0), channels,
           positions, parts, share, last, aligned, **blocks)
    blocks = group_blocks(partial, batch * groups, parts * each)
    launch(x, merge_kernel, ceil_div(batch * groups, blocks["BLOCK_ROWS"]), mean, rstd, means, squares, batch, groups, each, channels,
           positions, parts, share, eps, **blocks)
    programs, shares, blocks = write_blocks(x, batch, channels, positions, last)
    launch(x, apply_kernel, programs, y, mean, rstd, x, weight, bias, x.stride(0), groups, each, channels, positions, *shares, last,
           activation, aligned, **blocks)


def group_norm_backward(dx, dweight, dbias, partial, means, grad, x, weight, bias, mean, rstd, groups, last, activation):
    batch, channels, positions = sizes(x, last)
    each, parts, strides = channels // groups, partial.shape[0] // 2 // batch, (grad.stride(0), x.stride(0))
    aligned, share, (products, sums) = align(x.shape[2], *strides), ceil_div(positions, parts), partial.chunk(2)
    blocks = blocks_of(x, channels, share, last)
    launch(x, sums_kernel, batch * parts * ceil_div(channels, blocks["BLOCK_CHANNELS"]), products, sums, grad, x, mean, rstd, weight,
           bias, *strides, groups, each, channels, positions, parts, share, last, activation, aligned, **blocks)
    if dx is not None:
        blocks = group_blocks(partial, batch * groups, parts * each)
        launch(x, means_kernel, ceil_div(batch * groups, blocks["BLOCK_ROWS"]), means, products, sums, weight, batch, groups, each,
               channels, positions, parts, **blocks)
        programs, shares, blocks = write_blocks(x, batch, channels, positions, last)
        launch(x, gradient_kernel, programs, dx, means, grad, x, mean, rstd, weight, bias, *strides, batch, groups, each, channels,
               positions, *shares, last, activation, aligned, **blocks)
    for one, part in ((dweight, products), (dbias, sums)):
        if one is not None:
            sum_parts(one, part)
