"""What the kernels of several ops share."""
import triton
import triton.language as tl


@triton.constexpr_function
def accumulator(pointer):
    """The dtype to compute in: float32, or float64 for float64 data."""
    return tl.float64 if pointer.dtype.element_ty == tl.float64 else tl.float32


@triton.jit
def multiple(n, ALIGN: tl.constexpr):
    """n, which is a multiple of ALIGN, in a form from which the compiler can tell."""
    return n // ALIGN * ALIGN


@triton.jit
def load(pointer, offset, live, acc: tl.constexpr):
    return tl.load(pointer + offset, mask=live, other=0.0).to(acc)


@triton.jit
def tile_at(index, dim, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """Rows and columns of a tile. Tiles are counted along dim first."""
    across = tl.cdiv(dim, BLOCK_DIM)
    row = (index // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (index % across).to(tl.int64) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    return row, col
