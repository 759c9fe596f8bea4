// Seeded traffic for the simulation of silence: arrivals at one task, each from one of the nodes of a load balancer.
// All times in milliseconds, all rates in requests a second.

/** A number in [0, 1). */
export type Random = () => number

/** mulberry32: small, fast, good enough for arrivals, and the same on every machine. */
export function seeded (seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6D2B79F5) | 0
    let z = Math.imul(state ^ (state >>> 15), 1 | state)
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296
  }
}

/** Yields one arrival after the other, for ever. */
export interface Arrivals {
  /** The next arrival, never before the last one. */
  next (): number
  /** The node, from 0, that the arrival returned last came through. */
  node: number
}

export type Shape = (random: Random, rate: number, nodes: number) => Arrivals

function exponential (random: Random, mean: number): number {
  return -Math.log(1 - random()) * mean
}

/** A renewal process: independent pauses, every request through any node. */
function renewal (random: Random, nodes: number, pause: () => number): Arrivals {
  let at = 0
  return {
    node: 0,
    next () {
      this.node = Math.floor(random() * nodes)
      at += pause()
      return at
    }
  }
}

/** Poisson traffic whose rate switches between two levels; the lengths of the phases are drawn by the caller. */
function switched (
  random: Random, nodes: number, highRate: number, lowRate: number, highMs: () => number, lowMs: () => number, isHigh: boolean, firstMs: number
): Arrivals {
  let at = 0
  let phaseEnd = firstMs
  return {
    node: 0,
    next () {
      this.node = Math.floor(random() * nodes)
      for (;;) {
        const rate = isHigh ? highRate : lowRate
        const candidate = rate === 0 ? Infinity : at + exponential(random, 1000 / rate)
        if (candidate <= phaseEnd) {
          at = candidate
          return at
        }
        // Poisson arrivals have no memory: the draw beyond the phase is thrown away.
        at = phaseEnd
        isHigh = !isHigh
        phaseEnd += isHigh ? highMs() : lowMs()
      }
    }
  }
}

/** On and off for exponential times: nothing tells how long it will last. */
function onOff (onMs: number, offMs: number): Shape {
  return (random, rate, nodes) => {
    const isOn = random() * (onMs + offMs) < onMs
    const on = () => exponential(random, onMs)
    const off = () => exponential(random, offMs)
    return switched(random, nodes, rate * (onMs + offMs) / onMs, 0, on, off, isOn, isOn ? on() : off())
  }
}

/** On and off like clockwork, from a random moment of the period. */
function periodic (onMs: number, offMs: number): Shape {
  return (random, rate, nodes) => {
    const phase = random() * (onMs + offMs)
    const isOn = phase < onMs
    return switched(random, nodes, rate * (onMs + offMs) / onMs, 0, () => onMs, () => offMs, isOn, isOn ? onMs - phase : onMs + offMs - phase)
  }
}

/** Ten times less for a while, then back. */
function tides (phaseMs: number): Shape {
  return (random, rate, nodes) => {
    const phase = () => exponential(random, phaseMs)
    return switched(random, nodes, rate, rate / 10, phase, phase, random() < 0.5, phase())
  }
}

/** Independent traffic of each node: when the others have learned, what is left looks nothing like the sum. */
function each (shape: Shape): Shape {
  return (random, rate, nodes) => {
    const parts = Array.from({ length: nodes }, () => shape(random, rate / nodes, 1))
    const heads = parts.map(part => part.next())
    return {
      node: -1,
      next () {
        if (this.node >= 0) heads[this.node] = parts[this.node]!.next()
        let first = 0
        for (let i = 1; i < nodes; i++) if (heads[i]! < heads[first]!) first = i
        this.node = first
        return heads[first]!
      }
    }
  }
}

/** A client's page load: `size` requests, two milliseconds apart, over one connection, so through one node. */
function batches (size: number): Shape {
  return (random, rate, nodes) => {
    let left = 0
    let at = 0
    return {
      node: 0,
      next () {
        if (left === 0) {
          left = size
          this.node = Math.floor(random() * nodes)
          at += Math.max(0, exponential(random, size * 1000 / rate - 2 * size))
        } else {
          at += exponential(random, 2)
        }
        left--
        return at
      }
    }
  }
}

/** Pareto pauses: the smaller `alpha`, the heavier the tail. */
function pareto (alpha: number): Shape {
  return (random, rate, nodes) => {
    const least = 1000 / rate * (alpha - 1) / alpha
    return renewal(random, nodes, () => least * (1 - random()) ** (-1 / alpha))
  }
}

export const SHAPES: Record<string, Shape> = {
  poisson: (random, rate, nodes) => renewal(random, nodes, () => exponential(random, 1000 / rate)),
  'on 1 s, off 1 s': onOff(1000, 1000),
  'on 10 s, off 5 s': onOff(10_000, 5000),
  'on 20 s, off 20 s': onOff(20_000, 20_000),
  'each node on 2 s, off 2 s': each(onOff(2000, 2000)),
  'batches of 10': batches(10),
  'pauses of Pareto 2.5': pareto(2.5),
  'pauses of Pareto 1.5': pareto(1.5),
  '1 s every 10 s': periodic(1000, 9000),
  '5 s every minute': periodic(5000, 55_000),
  'tides of a minute': tides(60_000),
  'one pause of 2 s in 5 min': periodic(298_000, 2000)
}

/**
 * When each node learns that this task is gone, in milliseconds: at any time of the `learnMs` after `orderMs`, or, in
 * half of the cases, all but one at once and the straggler at the very end, which is the hardest for silence to tell.
 */
export function learning (random: Random, nodes: number, orderMs: number, learnMs: number): number[] {
  const hasStraggler = random() < 0.5
  return Array.from({ length: nodes }, (_, node) => {
    if (!hasStraggler) return orderMs + random() * learnMs
    return orderMs + (node === 0 ? learnMs : random() * learnMs / 15)
  })
}
