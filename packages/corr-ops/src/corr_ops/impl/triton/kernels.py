"""The GPU kernels, written against eq. 1 of the paper.

Names. b and s are the base and the searched frame of an output frame l, w its filters, g the number of channels
of a group. A *strip* is STRIP output positions of one row (or column), spaced by the dilation: neighbors
share all but one of the positions they search, so each tile that is loaded serves up to K products.

    out[k, p] = 1/g * sum_c w[c, k] * b[c, p] * s[c, p + offset(k)]

Tensors are read and written by their strides. Frames lie on axis 0 of the grid together with their tiles; offsets
of frames are 64-bit, offsets inside a frame too where WIDE says so. Every value has one writer and one order of
summation: results are equal bit for bit from run to run.
"""

import triton
import triton.language as tl


@triton.jit
def _decode(program, num_tiles, num_frames):
    """Return the tile, the frame and the clip of a program."""
    frame = program // num_tiles
    return program % num_tiles, frame % num_frames, frame // num_frames


@triton.jit
def _earlier(frame, LAG: tl.constexpr):
    """Return the frame that `frame` is paired with on the side that lags; the first has none before it."""
    return tl.maximum(frame - LAG, 0)


@triton.jit
def _pointers(frame, y, x, offsets, stride_h, stride_w):
    """Return pointers to the channels at `offsets` of positions, [LANES, CHANNELS]."""
    return frame + (y * stride_h + x * stride_w)[:, None] + offsets[None, :]


@triton.jit
def _load_tile(pointers, inside, some, MASKED: tl.constexpr):
    """Load the channels of positions, [LANES, CHANNELS]; zeros where not inside the frame."""
    if MASKED:
        return tl.load(pointers, mask=inside[:, None] & some[None, :], other=0.0)
    return tl.load(pointers, mask=inside[:, None], other=0.0)


@triton.jit
def _strip_along_x(
    tile, num_strips, LANES: tl.constexpr, STRIP: tl.constexpr, DX: tl.constexpr, WIDE: tl.constexpr
):
    """Return the row and the first column of each lane's strip, whose positions are DX apart."""
    lane = tile * LANES + tl.arange(0, LANES)
    y = lane // (DX * num_strips)
    x = (lane // DX) % num_strips * (DX * STRIP) + lane % DX
    if WIDE:
        y, x = y.to(tl.int64), x.to(tl.int64)
    return y, x


@triton.jit
def _load_strip(
    pointers, y, x, some, height, width,
    stride_w: tl.constexpr, STRIP: tl.constexpr, DX: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Load the STRIP tiles of positions x, x + DX, ..., given pointers to the first."""
    tiles = ()
    for r in tl.static_range(STRIP):
        inside = (y < height) & (x + r * DX < width)
        tiles = tiles + (_load_tile(pointers + r * DX * stride_w, inside, some, MASKED),)
    return tiles


@triton.jit
def _multiply(a, b, BY_BITS: tl.constexpr):
    """Multiply in the dtype of the frames.

    With BY_BITS products of bfloat16 are rounded to nearest, ties away from zero, by an integer addition: GPUs
    without a bfloat16 multiplication take seven instructions to round ties to even. Infinities stay, and so do NaNs:
    those that come from bfloat16 leave the added bit room.
    """
    if BY_BITS:
        bits = (a.to(tl.float32) * b.to(tl.float32)).to(tl.uint32, bitcast=True) + 0x8000
        return (bits >> 16).to(tl.uint16).to(a.dtype, bitcast=True)
    return a * b


@triton.jit
def _add_weighted_products(
    sums, bases, pointers, filters, y, x, some, height, width,
    stride_w: tl.constexpr, STRIP: tl.constexpr, KX: tl.constexpr, DX: tl.constexpr, MASKED: tl.constexpr,
    COLUMNS: tl.constexpr, BY_BITS: tl.constexpr,
):  # fmt: skip
    """Add to sums[r][:, j] the channel sums of w * b * s for row y of the searched frame.

    pointers are to its positions x. Products b * s are formed in the dtype of the frames; a matrix product with the
    filters of displacement j in column j, and zeros in the others, weights and adds them in float32.
    """
    columns = tl.arange(0, COLUMNS)
    for m in tl.static_range(STRIP + KX - 1):
        step = (m - KX // 2) * DX
        inside = (y >= 0) & (y < height) & (x + step >= 0) & (x + step < width)
        found = _load_tile(pointers + step * stride_w, inside, some, MASKED)
        for r in tl.static_range(STRIP):
            if m - r >= 0 and m - r < KX:
                column = tl.where(columns[None, :] == m - r, filters, 0.0)
                total = tl.dot(_multiply(found, bases[r], BY_BITS), column, sums[r])
                sums = sums[:r] + (total,) + sums[r + 1 :]
    return sums


@triton.jit
def forward_dot(
    base, search, weight, out,
    num_frames, height, width, num_strips, num_tiles,
    base_n, base_c, base_l, base_h, base_w: tl.constexpr,
    search_n, search_c, search_l, search_h, search_w: tl.constexpr,
    out_n, out_c, out_l, out_h, out_w: tl.constexpr,
    weight_l,
    GROUP: tl.constexpr, GROUPS: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    BASE_LAG: tl.constexpr, SEARCH_LAG: tl.constexpr, WIDE: tl.constexpr,
    STRIP: tl.constexpr, LANES: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, BY_BITS: tl.constexpr,
):  # fmt: skip
    """Forward pass for 16-bit frames: channels are reduced by the tensor cores.

    weight is [L or 1, KY, G, padded g, COLUMNS], zero in the padding.
    """
    CHUNKS: tl.constexpr = (GROUP + CHANNELS - 1) // CHANNELS
    MASKED: tl.constexpr = GROUP % CHANNELS != 0
    tile, frame, n = _decode(tl.program_id(0), num_tiles, num_frames)
    q = tl.program_id(1)
    y, x = _strip_along_x(tile, num_strips, LANES, STRIP, DX, WIDE)
    base += n.to(tl.int64) * base_n + _earlier(frame, BASE_LAG).to(tl.int64) * base_l
    search += n.to(tl.int64) * search_n + _earlier(frame, SEARCH_LAG).to(tl.int64) * search_l
    out += n.to(tl.int64) * out_n + frame.to(tl.int64) * out_l
    base += (q * GROUP).to(tl.int64) * base_c
    search += (q * GROUP).to(tl.int64) * search_c
    out += (q * KY * KX).to(tl.int64) * out_c
    weight += frame.to(tl.int64) * weight_l + q * (CHUNKS * CHANNELS * COLUMNS)

    channels = tl.arange(0, CHANNELS)
    columns = tl.arange(0, COLUMNS)
    filter_offsets = channels[:, None] * COLUMNS + columns[None, :]
    if CHUNKS == 1:
        some = channels < GROUP
        base_pointers = _pointers(base, y, x, channels * base_c, base_h, base_w)
        bases = _load_strip(base_pointers, y, x, some, height, width, base_w, STRIP, DX, MASKED)
    for i in tl.range(0, KY, num_stages=1):
        sums = (tl.zeros([LANES, COLUMNS], tl.float32),) * STRIP
        row = y + (i - KY // 2) * DY
        row_filters = weight + i * (GROUPS * CHUNKS * CHANNELS * COLUMNS)
        if CHUNKS == 1:
            filters = tl.load(row_filters + filter_offsets)
            pointers = _pointers(search, row, x, channels * search_c, search_h, search_w)
            sums = _add_weighted_products(
                sums, bases, pointers, filters, row, x, some, height, width,
                search_w, STRIP, KX, DX, MASKED, COLUMNS, BY_BITS,
            )  # fmt: skip
        else:
            for chunk in tl.range(0, CHUNKS, num_stages=1):
                c = chunk * CHANNELS + channels
                if WIDE:
                    c = c.to(tl.int64)
                base_pointers = _pointers(base, y, x, c * base_c, base_h, base_w)
                bases = _load_strip(base_pointers, y, x, c < GROUP, height, width, base_w, STRIP, DX, MASKED)
                filters = tl.load(row_filters + chunk * (CHANNELS * COLUMNS) + filter_offsets)
                pointers = _pointers(search, row, x, c * search_c, search_h, search_w)
                sums = _add_weighted_products(
                    sums, bases, pointers, filters, row, x, c < GROUP, height, width,
                    search_w, STRIP, KX, DX, MASKED, COLUMNS, BY_BITS,
                )  # fmt: skip
        pointers = _pointers(out, y, x, (i * KX + columns) * out_c, out_h, out_w)
        for r in tl.static_range(STRIP):
            mask = ((y < height) & (x + r * DX < width))[:, None] & (columns < KX)[None, :]
            value = (sums[r] * (1.0 / GROUP)).to(out.dtype.element_ty)
            tl.store(pointers + r * DX * out_w, value, mask=mask)


@triton.jit
def forward_exact(
    base, search, weight, out,
    num_frames, height, width, num_tiles,
    base_n, base_c, base_l, base_h: tl.constexpr, base_w,
    search_n, search_c, search_l, search_h: tl.constexpr, search_w,
    out_n, out_c, out_l, out_h: tl.constexpr, out_w,
    weight_l, weight_c, weight_i, weight_j,
    GROUP: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    BASE_LAG: tl.constexpr, SEARCH_LAG: tl.constexpr, WIDE: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    STRIP: tl.constexpr, LANES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Forward pass in the precision of SUM, for frames whose rows are contiguous: one position in a lane.

    A program computes one column j of the neighborhood; its strips run along y. Programs of the same positions
    follow each other and find the frames in the cache.
    """
    program = tl.program_id(0)
    j = program % KX
    tile, frame, n = _decode(program // KX, num_tiles, num_frames)
    q = tl.program_id(1)
    lane = tile * LANES + tl.arange(0, LANES)
    x = lane % width
    strip = lane // width
    y = strip // DY * (DY * STRIP) + strip % DY
    if WIDE:
        y, x = y.to(tl.int64), x.to(tl.int64)
    base += n.to(tl.int64) * base_n + _earlier(frame, BASE_LAG).to(tl.int64) * base_l
    search += n.to(tl.int64) * search_n + _earlier(frame, SEARCH_LAG).to(tl.int64) * search_l
    out += n.to(tl.int64) * out_n + frame.to(tl.int64) * out_l + (q * KY * KX + j).to(tl.int64) * out_c
    base += (q * GROUP).to(tl.int64) * base_c
    search += (q * GROUP).to(tl.int64) * search_c
    weight += frame.to(tl.int64) * weight_l + (q * GROUP).to(tl.int64) * weight_c + j * weight_j
    column = x + (j - KX // 2) * DX
    reaches = (column >= 0) & (column < width)
    base += y * base_h + x * base_w
    search += y * search_h + column * search_w
    out += y * out_h + x * out_w

    sums = (tl.zeros([LANES], SUM),) * (STRIP * KY)
    for _ in tl.range(0, GROUP, num_stages=1):
        bases = ()
        for r in tl.static_range(STRIP):
            inside = y + r * DY < height
            bases = bases + (tl.load(base + r * DY * base_h, mask=inside, other=0.0).to(SUM),)
        filters = ()
        for i in tl.static_range(KY):
            if HAS_WEIGHT:
                filters = filters + (tl.load(weight + i * weight_i).to(SUM),)
            else:
                filters = filters + (1.0,)
        for m in tl.static_range(STRIP + KY - 1):
            step = (m - KY // 2) * DY
            inside = (y + step >= 0) & (y + step < height) & reaches
            found = tl.load(search + step * search_h, mask=inside, other=0.0).to(SUM)
            for r in tl.static_range(STRIP):
                if m - r >= 0 and m - r < KY:
                    total = sums[r * KY + m - r] + (bases[r] * filters[m - r]) * found
                    sums = sums[: r * KY + m - r] + (total,) + sums[r * KY + m - r + 1 :]
        base += base_c
        search += search_c
        weight += weight_c
    for r in tl.static_range(STRIP):
        inside = (y + r * DY < height) & (x < width)
        for i in tl.static_range(KY):
            value = (sums[r * KY + i] * (1.0 / GROUP)).to(out.dtype.element_ty)
            tl.store(out + r * DY * out_h + i * KX * out_c, value, mask=inside)


@triton.jit
def _add_role(
    sums, grad, source, filters, y, x, offsets, some,
    grad_c, grad_h, source_h, weight_k, height, width,
    grad_w: tl.constexpr, source_w: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    STRIP: tl.constexpr, MASKED: tl.constexpr, SEARCHED: tl.constexpr, SUM: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add to sums[r] what one output frame gives to the gradient of a frame in one of its roles.

    As the base of output position p a frame met the neighbors p + offset in `source`. As the searched frame its
    position p was met by the positions p - offset of `source`. filters are [KY*KX, C], divided by g.
    """
    SIGN: tl.constexpr = -1 if SEARCHED else 1
    row = y - SIGN * (KY // 2) * DY
    pointers = _pointers(source, row, x, offsets, source_h, source_w)
    row_grad = grad + ((row if SEARCHED else y) * grad_h + x * grad_w)
    row_filters = filters + tl.arange(0, CHANNELS)
    for _ in tl.range(0, KY, num_stages=1):
        row_inside = (y < height) & (row >= 0) & (row < height)
        for m in tl.static_range(STRIP + KX - 1):
            step = (m - KX // 2) * DX
            inside = row_inside & (x + step >= 0) & (x + step < width)
            found = _load_tile(pointers + step * source_w, inside, some, MASKED).to(SUM)
            for r in tl.static_range(STRIP):
                if m - r >= 0 and m - r < KX:
                    if SEARCHED:
                        k = KX - 1 - m + r
                        value = tl.load(row_grad + step * grad_w + k * grad_c, mask=inside, other=0.0)
                    else:
                        k = m - r
                        both = inside & (x + r * DX < width)
                        value = tl.load(row_grad + r * DX * grad_w + k * grad_c, mask=both, other=0.0)
                    if MASKED:
                        column = tl.load(row_filters + k * weight_k, mask=some, other=0.0)
                    else:
                        column = tl.load(row_filters + k * weight_k)
                    total = sums[r] + (value.to(SUM)[:, None] * column[None, :]) * found
                    sums = sums[:r] + (total,) + sums[r + 1 :]
        row += SIGN * DY
        pointers += SIGN * DY * source_h
        row_grad += KX * grad_c - (DY * grad_h if SEARCHED else 0)
        row_filters += KX * weight_k
    return sums


@triton.jit
def grad_frames(
    grad, base, search, weight, out,
    num_frames, height, width, num_strips, num_tiles,
    grad_n, grad_c, grad_l, grad_h, grad_w: tl.constexpr,
    base_n, base_c, base_l, base_h, base_w: tl.constexpr,
    search_n, search_c, search_l, search_h, search_w: tl.constexpr,
    out_n, out_c, out_l, out_h, out_w: tl.constexpr,
    weight_l, weight_k,
    GROUP: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    BASE_LAG: tl.constexpr, SEARCH_LAG: tl.constexpr, WIDE: tl.constexpr,
    AS_BASE: tl.constexpr, AS_SEARCHED: tl.constexpr, SUM: tl.constexpr,
    STRIP: tl.constexpr, LANES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of the base frames, of the searched frames, or of frames that are both, in one gather.

    A frame that lags belongs to the output frame after it, the first one to output frame 0 as well.
    """
    CHUNKS: tl.constexpr = (GROUP + CHANNELS - 1) // CHANNELS
    MASKED: tl.constexpr = GROUP % CHANNELS != 0
    tile, frame, n = _decode(tl.program_id(0), num_tiles, num_frames)
    q = tl.program_id(1) // CHUNKS
    chunk = tl.program_id(1) % CHUNKS
    y, x = _strip_along_x(tile, num_strips, LANES, STRIP, DX, WIDE)
    channels = chunk * CHANNELS + tl.arange(0, CHANNELS)
    some = channels < GROUP
    if WIDE:
        channels = channels.to(tl.int64)
    grad += n.to(tl.int64) * grad_n + (q * KY * KX).to(tl.int64) * grad_c
    base += n.to(tl.int64) * base_n + (q * GROUP).to(tl.int64) * base_c
    search += n.to(tl.int64) * search_n + (q * GROUP).to(tl.int64) * search_c
    weight += q * GROUP + chunk * CHANNELS

    sums = (tl.zeros([LANES, CHANNELS], SUM),) * STRIP
    if AS_BASE:
        first, last = tl.where(frame == 0, 0, frame + BASE_LAG), tl.minimum(frame + BASE_LAG, num_frames - 1)
        for step in tl.range(0, last - first + 1, num_stages=1):
            at = first + step
            sums = _add_role(
                sums, grad + at.to(tl.int64) * grad_l,
                search + _earlier(at, SEARCH_LAG).to(tl.int64) * search_l,
                weight + at.to(tl.int64) * weight_l, y, x, channels * search_c, some,
                grad_c, grad_h, search_h, weight_k, height, width,
                grad_w, search_w, KY, KX, DY, DX, STRIP, MASKED, False, SUM, CHANNELS,
            )  # fmt: skip
    if AS_SEARCHED:
        first, last = (
            tl.where(frame == 0, 0, frame + SEARCH_LAG),
            tl.minimum(frame + SEARCH_LAG, num_frames - 1),
        )
        for step in tl.range(0, last - first + 1, num_stages=1):
            at = first + step
            sums = _add_role(
                sums, grad + at.to(tl.int64) * grad_l,
                base + _earlier(at, BASE_LAG).to(tl.int64) * base_l,
                weight + at.to(tl.int64) * weight_l, y, x, channels * base_c, some,
                grad_c, grad_h, base_h, weight_k, height, width,
                grad_w, base_w, KY, KX, DY, DX, STRIP, MASKED, True, SUM, CHANNELS,
            )  # fmt: skip
    out += n.to(tl.int64) * out_n + frame.to(tl.int64) * out_l + (q * GROUP).to(tl.int64) * out_c
    pointers = _pointers(out, y, x, channels * out_c, out_h, out_w)
    for r in tl.static_range(STRIP):
        mask = ((y < height) & (x + r * DX < width))[:, None] & some[None, :]
        tl.store(pointers + r * DX * out_w, sums[r].to(out.dtype.element_ty), mask=mask)


@triton.jit
def grad_filters(
    grad, base, search, out,
    num_clips, num_frames, height, width, num_strips, num_tiles, tiles_per_split,
    grad_n, grad_c, grad_l, grad_h, grad_w: tl.constexpr,
    base_n, base_c, base_l, base_h, base_w: tl.constexpr,
    search_n, search_c, search_l, search_h, search_w: tl.constexpr,
    GROUP: tl.constexpr, GROUPS: tl.constexpr,
    KY: tl.constexpr, KX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    BASE_LAG: tl.constexpr, SEARCH_LAG: tl.constexpr, WIDE: tl.constexpr, SUM: tl.constexpr, DOT: tl.constexpr,
    STRIP: tl.constexpr, LANES: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, BY_BITS: tl.constexpr,
):  # fmt: skip
    """Gradient of row i of the filters, one partial sum for each split of the positions.

    Products b * s meet the gradients of displacement j. With DOT the tensor cores add them over the positions for
    all columns of the gradient at once, and column j is picked at the end. out is [splits, L, KY*KX, C].
    """
    CHUNKS: tl.constexpr = (GROUP + CHANNELS - 1) // CHANNELS
    MASKED: tl.constexpr = GROUP % CHANNELS != 0
    split = tl.program_id(0) // num_frames
    frame = tl.program_id(0) % num_frames
    i = tl.program_id(1) % KY
    chunk = tl.program_id(1) // KY % CHUNKS
    q = tl.program_id(1) // (KY * CHUNKS)
    channels = chunk * CHANNELS + tl.arange(0, CHANNELS)
    some = channels < GROUP
    columns = tl.arange(0, COLUMNS)
    if WIDE:
        channels = channels.to(tl.int64)
    grad += frame.to(tl.int64) * grad_l + (q * KY * KX + i * KX).to(tl.int64) * grad_c
    base += _earlier(frame, BASE_LAG).to(tl.int64) * base_l + (q * GROUP).to(tl.int64) * base_c
    search += _earlier(frame, SEARCH_LAG).to(tl.int64) * search_l + (q * GROUP).to(tl.int64) * search_c

    if DOT:
        sums = (tl.zeros([CHANNELS, COLUMNS], tl.float32),) * KX
    else:
        sums = (tl.zeros([LANES, CHANNELS], SUM),) * KX
    start = split * tiles_per_split
    count = tl.minimum(tiles_per_split, num_clips * num_tiles - start)
    for done in tl.range(0, count, num_stages=1):
        item = start + done
        n = (item // num_tiles).to(tl.int64)
        y, x = _strip_along_x(item % num_tiles, num_strips, LANES, STRIP, DX, WIDE)
        base_pointers = _pointers(base + n * base_n, y, x, channels * base_c, base_h, base_w)
        bases = _load_strip(base_pointers, y, x, some, height, width, base_w, STRIP, DX, MASKED)
        if DOT:
            grad_pointers = _pointers(grad + n * grad_n, y, x, columns * grad_c, grad_h, grad_w)
            some_columns = columns < KX
            grads = _load_strip(
                grad_pointers, y, x, some_columns, height, width, grad_w, STRIP, DX, KX != COLUMNS
            )
        else:
            grad_pointers = grad + n * grad_n + y * grad_h + x * grad_w
        row = y + (i - KY // 2) * DY
        row_inside = (y < height) & (row >= 0) & (row < height)
        pointers = _pointers(search + n * search_n, row, x, channels * search_c, search_h, search_w)
        for m in tl.static_range(STRIP + KX - 1):
            step = (m - KX // 2) * DX
            inside = row_inside & (x + step >= 0) & (x + step < width)
            found = _load_tile(pointers + step * search_w, inside, some, MASKED)
            for r in tl.static_range(STRIP):
                if m - r >= 0 and m - r < KX:
                    if DOT:
                        total = tl.dot(tl.trans(_multiply(found, bases[r], BY_BITS)), grads[r], sums[m - r])
                    else:
                        both = inside & (x + r * DX < width)
                        grad_of = grad_pointers + r * DX * grad_w + (m - r) * grad_c
                        value = tl.load(grad_of, mask=both, other=0.0)
                        total = sums[m - r] + (value.to(SUM)[:, None] * bases[r].to(SUM)) * found.to(SUM)
                    sums = sums[: m - r] + (total,) + sums[m - r + 1 :]
    out += (split * num_frames + frame).to(tl.int64) * (KY * KX * GROUPS * GROUP) + q * GROUP
    for j in tl.static_range(KX):
        if DOT:
            value = tl.sum(tl.where(columns[None, :] == j, sums[j], 0.0), axis=1)
        else:
            value = tl.sum(sums[j], axis=0)
        tl.store(out + (i * KX + j) * (GROUPS * GROUP) + channels, value * (1.0 / GROUP), mask=some)
