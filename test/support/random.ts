// Random numbers that are the same in every run (mulberry32).

export interface Random {
  /** 0 <= x < 1 */
  next: () => number
  /** min <= x <= max, in steps of `step`. */
  between: (min: number, max: number, step?: number) => number
}

export function random (seed: number): Random {
  let state = seed
  const next = () => {
    state = (state + 0x6D2B79F5) | 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    next,
    between: (min, max, step = 1) => {
      const steps = Math.floor(Math.round((max - min) / step * 1e6) / 1e6)
      return Number((min + Math.floor(next() * (steps + 1)) * step).toFixed(6))
    }
  }
}
