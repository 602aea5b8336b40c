"""The Triton programs behind ``groupnorm.py``: sums over pixels, the coefficients that follow, and applying them."""

# pyright: reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false
from __future__ import annotations

from gpurent_engine.step.kernels.backend import INSTALLED, tl, triton

if INSTALLED:

    @triton.jit
    def _source(x1, x2, column, C1, C2):
        """Pointer to ``column`` of the concatenation, and the width of the map it lies in."""
        first = column < C1  # a select, not a branch: Triton sees through it that the pointer stays aligned
        pointer = tl.where(first, x1 + column, x2 + (column - C1))
        width = tl.where(first, C1, C2)
        return pointer, width

    @triton.jit
    def _through_silu(g, z):
        s = 1.0 / (1.0 + tl.exp(-z))
        return g * s * (1.0 + z * (1.0 - s))

    @triton.jit(do_not_specialize=["HW", "ROWS_EACH", "PARTS"])
    def channel_sums(
        x1,
        x2,
        dy,
        scale,
        offset,
        first,
        second,
        C1,
        C2,
        HW,
        ROWS_EACH,
        PARTS,
        DY_STRIDE,
        BACKWARD: tl.constexpr,
        ACT: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        """Partial sums over pixels for each channel: Σv, Σv² forward; Σg, Σgv backward."""
        n, part = tl.program_id(0), tl.program_id(1)
        C = C1 + C2
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        x, width = _source(x1, x2, start, C1, C2)
        sum1 = tl.zeros([BC], tl.float32)
        sum2 = tl.zeros([BC], tl.float32)
        if BACKWARD:
            a = tl.load(scale + n * C + c, mask=known, other=0.0)
            b = tl.load(offset + n * C + c, mask=known, other=0.0)
        for i in range(0, ROWS_EACH, BR):
            r = part * ROWS_EACH + i + tl.arange(0, BR)
            inside = (r < HW)[:, None] & known[None, :]
            row = (n * HW + r).to(tl.int64)
            v = tl.load(x + row[:, None] * width + lane[None, :], mask=inside, other=0.0).to(tl.float32)
            if BACKWARD:
                g = tl.load(dy + row[:, None] * DY_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
                if ACT:
                    g = _through_silu(g, v * a[None, :] + b[None, :])
                sum1 += tl.sum(g, 0)
                sum2 += tl.sum(g * v, 0)
            else:
                sum1 += tl.sum(v, 0)
                sum2 += tl.sum(v * v, 0)
        at = (n * PARTS + part) * C + c
        tl.store(first + at, sum1, mask=known)
        tl.store(second + at, sum2, mask=known)

    @triton.jit
    def _total(pointer, n, c, known, PARTS, C, BP: tl.constexpr, BG: tl.constexpr):
        total = tl.zeros([BG], tl.float32)
        for i in range(0, PARTS, BP):
            p = i + tl.arange(0, BP)
            inside = (p < PARTS)[:, None] & known[None, :]
            total += tl.sum(tl.load(pointer + (n * PARTS + p)[:, None] * C + c[None, :], mask=inside, other=0.0), 0)
        return total

    @triton.jit(do_not_specialize=["PARTS", "CG", "HW"])
    def coefficients(
        first,
        second,
        weight,
        bias,
        shift,
        SHIFT_STRIDE,
        mean,
        rstd,
        scale,
        offset,
        sums,
        PARTS,
        C,
        CG,
        HW,
        eps,
        SHIFTED: tl.constexpr,
        SUMS: tl.constexpr,
        BP: tl.constexpr,
        BG: tl.constexpr,
    ):
        """Forward: y = act(scale·v + offset), both for each sample and channel."""
        n, g = tl.program_id(0), tl.program_id(1)
        G = tl.num_programs(1)
        k = tl.arange(0, BG)
        c, known = g * CG + k, k < CG
        sum1 = _total(first, n, c, known, PARTS, C, BP, BG)
        sum2 = _total(second, n, c, known, PARTS, C, BP, BG)
        pixels = HW.to(tl.float32)
        count = pixels * CG
        t = tl.zeros([BG], tl.float32)
        if SHIFTED:
            t = tl.load(shift + n * SHIFT_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        shifted1 = tl.where(known, sum1 + pixels * t, 0.0)
        shifted2 = tl.where(known, sum2 + 2.0 * t * sum1 + pixels * t * t, 0.0)
        mu = tl.sum(shifted1, 0) / count
        variance = tl.sum(shifted2, 0) / count - mu * mu
        rs = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
        tl.store(mean + n * G + g, mu)
        tl.store(rstd + n * G + g, rs)
        a = rs * tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        b = tl.load(bias + c, mask=known, other=0.0).to(tl.float32) - mu * a + a * t
        tl.store(scale + n * C + c, a, mask=known)
        tl.store(offset + n * C + c, b, mask=known)
        if SUMS:
            tl.store(sums + n * C + c, sum1, mask=known)

    @triton.jit(do_not_specialize=["PARTS", "CG", "HW"])
    def gradient_coefficients(
        first,
        second,
        weight,
        shift,
        SHIFT_STRIDE,
        mean,
        rstd,
        constant,
        slope,
        sums,
        dshift,
        PARTS,
        C,
        CG,
        HW,
        SHIFTED: tl.constexpr,
        SUMS: tl.constexpr,
        BP: tl.constexpr,
        BG: tl.constexpr,
    ):
        """Backward: dv = scale·g + constant + slope·v, both for each sample and channel."""
        n, g = tl.program_id(0), tl.program_id(1)
        G = tl.num_programs(1)
        k = tl.arange(0, BG)
        c, known = g * CG + k, k < CG
        sum1 = _total(first, n, c, known, PARTS, C, BP, BG)
        sum2 = _total(second, n, c, known, PARTS, C, BP, BG)
        pixels = HW.to(tl.float32)
        count = pixels * CG
        t = tl.zeros([BG], tl.float32)
        if SHIFTED:
            t = tl.load(shift + n * SHIFT_STRIDE + c, mask=known, other=0.0).to(tl.float32)
        w = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
        mu = tl.load(mean + n * G + g)
        rs = tl.load(rstd + n * G + g)
        m1 = tl.sum(w * sum1, 0) / count
        m2 = tl.sum(w * rs * (sum2 + (t - mu) * sum1), 0) / count
        q = -rs * rs * m2
        p = -rs * m1 + rs * rs * mu * m2 + q * t
        tl.store(constant + n * C + c, p, mask=known)
        tl.store(slope + n * C + c, q + tl.zeros([BG], tl.float32), mask=known)
        if SUMS:
            v = tl.load(sums + n * C + c, mask=known, other=0.0)
            tl.store(dshift + n * C + c, rs * w * sum1 + pixels * p + q * v, mask=known)

    @triton.jit(do_not_specialize=["HW"])
    def apply(
        x1,
        x2,
        scale,
        offset,
        y,
        C1,
        C2,
        HW,
        Y_STRIDE,
        ACT: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        """y = act(scale·v + offset)."""
        n = tl.program_id(0)
        C = C1 + C2
        r = tl.program_id(1) * BR + tl.arange(0, BR)
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        inside = (r < HW)[:, None] & known[None, :]
        row = (n * HW + r).to(tl.int64)
        x, width = _source(x1, x2, start, C1, C2)
        a = tl.load(scale + n * C + c, mask=known, other=0.0)
        b = tl.load(offset + n * C + c, mask=known, other=0.0)
        v = tl.load(x + row[:, None] * width + lane[None, :], mask=inside, other=0.0).to(tl.float32)
        z = v * a[None, :] + b[None, :]
        if ACT:
            z = z / (1.0 + tl.exp(-z))
        tl.store(y + row[:, None] * Y_STRIDE + c[None, :], z.to(y.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["HW"])
    def apply_gradient(
        x1,
        x2,
        dy,
        scale,
        offset,
        constant,
        slope,
        pass1,
        pass2,
        dx1,
        dx2,
        C1,
        C2,
        HW,
        DY_STRIDE,
        ACT: tl.constexpr,
        PASS1: tl.constexpr,
        PASS2: tl.constexpr,
        BR: tl.constexpr,
        BC: tl.constexpr,
    ):
        """dx = scale·g + constant + slope·v, and what the residual path sends back."""
        n = tl.program_id(0)
        C = C1 + C2
        r = tl.program_id(1) * BR + tl.arange(0, BR)
        start = tl.program_id(2) * BC
        lane = tl.arange(0, BC)
        c = start + lane
        known = c < C
        inside = (r < HW)[:, None] & known[None, :]
        row = (n * HW + r).to(tl.int64)
        x, width = _source(x1, x2, start, C1, C2)
        at = row[:, None] * width + lane[None, :]
        a = tl.load(scale + n * C + c, mask=known, other=0.0)
        b = tl.load(offset + n * C + c, mask=known, other=0.0)
        p = tl.load(constant + n * C + c, mask=known, other=0.0)
        q = tl.load(slope + n * C + c, mask=known, other=0.0)
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(dy + row[:, None] * DY_STRIDE + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if ACT:
            g = _through_silu(g, v * a[None, :] + b[None, :])
        dv = a[None, :] * g + p[None, :] + q[None, :] * v
        if PASS1:
            dv += tl.load(pass1 + start + at, mask=inside & (start < C1), other=0.0).to(tl.float32)
        if PASS2:
            dv += tl.load(pass2 + (start - C1) + at, mask=inside & (start >= C1), other=0.0).to(tl.float32)
        dx, _ = _source(dx1, dx2, start, C1, C2)
        tl.store(dx + at, dv.to(dx1.dtype.element_ty), mask=inside)
