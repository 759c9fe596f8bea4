// The seeded simulation that the constants of lib/deregistration/silence.ts rest on: traffic of many shapes through a
// balancer of one to six nodes, a stop at any age of the process, in both orders. The `judge` that ships walks every run.
//
//   npm test                                     a fixed seed, a few seconds, every combination at least a few times
//   SIMULATION_RUNS=1000 npx tap --disable-coverage --timeout=900 test/deregistration/silence-simulation.ts
//                                                that many runs a combination up to 20 requests/s, fewer above; minutes
//
// An early close: closing begins by silence while a node would still have sent a request. A window that was spent
// before the balancer had let go is no error of the judgement and is counted apart.

import t from 'tap'
import { judge, Pauses } from '../../lib/deregistration/silence.js'
import { learning, seeded, SHAPES } from '../support/traffic.js'
import type { Shape } from '../support/traffic.js'

const RUNS = Number(process.env['SIMULATION_RUNS'] ?? 60)
const RATES = [0.01, 0.1, 0.3, 1, 3, 10, 20, 100, 300, 1000]
/** For the other windows, where only the length of the wait differs. */
const FEW_RATES = [0.1, 1, 20, 100]
const FLOOR_MS = 3000
const FIVE_MINUTES_MS = 300_000

/** Seconds. Ten minutes are played as the last six: what is older is forgotten. */
const AGES: Record<string, number> = { '20 s': 20, '60 s': 60, '200 s': 200, '10 min': 360 }

/** Nothing that looks at the sum of all nodes can know these: see the test below. */
const BEYOND = ['each node on 2 s, off 2 s', 'pauses of Pareto 1.5']

interface Stop {
  readonly drainEndMs: number
  readonly drainLimitMs: number
  /** The nodes learn within this time of the order to deregister. */
  readonly learnMs: number
  /** How long before the signal the order to deregister was given. */
  readonly aheadMs: number
}

const STOPS: Record<string, Stop> = {
  'window 20 s': { drainEndMs: 20_000, drainLimitMs: 20_000, learnMs: 15_000, aheadMs: 0 },
  'window 75 s, nodes learn over 60 s': { drainEndMs: 75_000, drainLimitMs: 75_000, learnMs: 60_000, aheadMs: 0 },
  'window 5 s, limit 20 s': { drainEndMs: 5000, drainLimitMs: 20_000, learnMs: 15_000, aheadMs: 0 }
}

class Tally {
  runs = 0
  early = 0
  spent = 0
  /** Milliseconds from the last request, or from the signal if it came before, to closing. */
  readonly waits: number[] = []

  add (other: Tally, withWaits = true): void {
    this.runs += other.runs
    this.early += other.early
    this.spent += other.spent
    if (withWaits) this.waits.push(...other.waits)
  }

  quantile (share: number): number {
    const sorted = Float64Array.from(this.waits).sort()
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  }

  toString (): string {
    const [median, late] = [this.quantile(0.5), this.quantile(0.95)].map(ms => `${(ms / 1000).toFixed(1)} s`.padStart(7))
    return `${String(this.runs).padStart(6)} runs, ${String(this.early).padStart(3)} early, ${String(this.spent).padStart(4)} spent, wait ${median}, p95 ${late}`
  }
}

/** One process from its start to the beginning of closing. Nothing is tallied if it never had a request. */
function play (seed: number, shape: Shape, rate: number, ageMs: number, stop: Stop, tally: Tally): void {
  const random = seeded(seed)
  const nodes = 1 + seed % 6
  const arrivals = shape(random, rate, nodes)
  const learned = learning(random, nodes, ageMs - stop.aheadMs, stop.learnMs)
  const untilMs = ageMs - stop.aheadMs + stop.learnMs
  const pauses = new Pauses()
  let lastArrivalMs: number | undefined

  const next = () => {
    let at = arrivals.next()
    while (at < untilMs && at >= learned[arrivals.node]!) at = arrivals.next()
    return at < untilMs ? at : Infinity
  }
  let coming = next()
  const arrive = (whenMs: number) => {
    while (coming <= whenMs) {
      if (lastArrivalMs !== undefined) pauses.record(coming - lastArrivalMs, coming)
      lastArrivalMs = coming
      coming = next()
    }
  }

  arrive(ageMs)
  if (lastArrivalMs === undefined) return
  const drainEndMs = ageMs + stop.drainEndMs
  const drainLimitMs = ageMs + stop.drainLimitMs
  let nowMs = ageMs
  for (;;) {
    const usualMs = pauses.usual(FLOOR_MS)
    const judgement = judge({ nowMs, signalMs: ageMs, lastArrivalMs, usualMs, floorMs: FLOOR_MS, drainEndMs, drainLimitMs, inFlight: 0 })
    if (judgement.letGo) break
    nowMs += judgement.checkInMs
    arrive(nowMs)
  }
  tally.runs++
  if (coming < Infinity) tally[nowMs < drainEndMs ? 'early' : 'spent']++
  else tally.waits.push(nowMs - Math.max(ageMs, lastArrivalMs))
}

/** Fewer runs where a run costs more: there are more pauses in each, and the floor is many times the usual one. */
function runsAt (rate: number, share = 1): number {
  return Math.max(3, Math.ceil(RUNS * share * Math.min(1, 20 / rate)))
}

function simulate (name: string, rate: number, ageMs: number, stop: Stop, runs: number): Tally {
  const tally = new Tally()
  const seed = 1_000_003 * Math.round(rate * 100) + ageMs + name.length
  for (let run = 0; run < runs; run++) play(seed + run, SHAPES[name]!, rate, ageMs, stop, tally)
  return tally
}

for (const [title, stop] of Object.entries(STOPS)) {
  const isMain = title === 'window 20 s'
  t.test(`SIGTERM first, ${title}: fewer than one early close in a thousand`, async t => {
    t.comment(`early and spent at all ages; wait at 10 min: ideal 0, floor ${FLOOR_MS / 1000} s, window ${stop.drainEndMs / 1000} s`)
    for (const name of Object.keys(SHAPES)) {
      for (const rate of isMain ? RATES : FEW_RATES) {
        const row = new Tally()
        for (const [age, ageS] of Object.entries(AGES)) {
          const tally = simulate(name, rate, ageS * 1000, stop, runsAt(rate, isMain ? 1 : 0.2))
          row.add(tally, age === '10 min')
          if (!BEYOND.includes(name) && tally.early * 1000 >= Math.max(1, tally.runs)) t.fail(`${name}, ${rate}/s, ${age}: ${tally}`)
        }
        t.comment(`${name.padEnd(26)} ${String(rate).padStart(4)}/s ${row}`)
        if (stop.drainEndMs > stop.learnMs) t.equal(row.spent, 0, `${name}, ${rate}/s: the window was long enough`)
        if (BEYOND.includes(name)) t.ok(row.early <= row.runs * 0.06, `${name}, ${rate}/s: early closes are rare`)
      }
    }
  })
}

t.test('SIGTERM first, an old process: the wait after the last request', async t => {
  const wait = (name: string, rate: number) => simulate(name, rate, 360_000, STOPS['window 20 s']!, Math.ceil(RUNS / 2))
  t.ok(wait('poisson', 20).quantile(0.5) < 5000, 'is below 5 s at 20 requests/s')
  t.ok(wait('poisson', 100).quantile(0.95) < FLOOR_MS + 100, 'is the floor at 100 requests/s')
  const odd = wait('one pause of 2 s in 5 min', 20)
  t.ok(odd.quantile(0.5) < 6500, 'is below 6.5 s at 20 requests/s with one odd pause of 2 s in five minutes')
  t.ok(wait('one pause of 2 s in 5 min', 100).quantile(0.5) < FLOOR_MS + 100, 'is the floor at 100 requests/s with such a pause')
})

t.test('deregistered first: a busy service closes at once', async t => {
  for (const aheadMs of [20_000, 60_000, FIVE_MINUTES_MS]) {
    const stop = { ...STOPS['window 20 s']!, aheadMs }
    for (const name of ['poisson', 'batches of 10', 'one pause of 2 s in 5 min']) {
      for (const rate of [1, 20, 100, 300]) {
        const tally = simulate(name, rate, 360_000 + aheadMs, stop, runsAt(rate, 0.3))
        t.comment(`${name.padEnd(26)} ${String(rate).padStart(4)}/s ${aheadMs / 1000} s ahead ${tally}`)
        t.equal(tally.early + tally.spent, 0, `${name}, ${rate}/s: every node had let go`)
        const isBusy = rate >= (name === 'batches of 10' || aheadMs === 20_000 ? 100 : 20)
        if (isBusy && (aheadMs > 20_000 || name !== 'batches of 10')) t.equal(tally.quantile(0.95), 0, `${name}, ${rate}/s, ${aheadMs / 1000} s ahead: at once`)
      }
    }
  }
})

t.test('a process younger than sixty floors waits for the whole window', async t => {
  for (const ageS of [20, 60, 150]) {
    const tally = simulate('poisson', 20, ageS * 1000, STOPS['window 20 s']!, 12)
    t.ok(tally.quantile(0) >= 5000, `at ${ageS} s`)
    t.equal(tally.early, 0)
  }
})

/** The other answers that were thought of, from exact pauses, longest first, and the time they add up to. */
const ALTERNATIVES: Record<string, (pauses: Float64Array, observedMs: number) => number> = {
  '10 x 99 %, weighted': (pauses, ms) => 10 * weighted(pauses, ms, 0.01),
  '3 x 99 %, weighted': (pauses, ms) => 3 * weighted(pauses, ms, 0.01),
  '5 x 99 %, weighted': (pauses, ms) => 5 * weighted(pauses, ms, 0.01),
  '20 x 99 %, weighted': (pauses, ms) => 20 * weighted(pauses, ms, 0.01),
  '10 x 95 %, weighted': (pauses, ms) => 10 * weighted(pauses, ms, 0.05),
  '10 x 99 %, not weighted': pauses => 10 * pauses[Math.floor(pauses.length / 100)]!,
  '10 x the longest': pauses => 10 * pauses[0]!,
  '66 x the mean (same for Poisson)': (pauses, ms) => 66 * ms / pauses.length
}

function weighted (pauses: Float64Array, observedMs: number, rare: number): number {
  let longerMs = 0
  return pauses.find(pause => (longerMs += pause) > observedMs * rare)!
}

t.test('the alternatives, old process, SIGTERM first, 20 requests/s', async t => {
  const runs = Math.ceil(RUNS / 2)
  const tallies = new Map<string, Map<string, Tally>>()
  for (const [name, shape] of Object.entries(SHAPES)) {
    for (let run = 0; run < runs; run++) {
      const random = seeded(77_000 + run)
      const nodes = 1 + run % 6
      const arrivals = shape(random, 20, nodes)
      const learned = learning(random, nodes, FIVE_MINUTES_MS, 15_000)
      const seen: number[] = []
      const sent: number[] = []
      let lastMs = 0
      for (let at = arrivals.next(); at < FIVE_MINUTES_MS + 15_000; at = arrivals.next()) {
        if (at < FIVE_MINUTES_MS) {
          if (lastMs > 0) seen.push(at - lastMs)
          lastMs = at
        } else if (at < learned[arrivals.node]!) sent.push(at)
      }
      const pauses = Float64Array.from(seen).sort().reverse()
      const observedMs = pauses.reduce((sum, pause) => sum + pause, 0)
      for (const [answer, needed] of Object.entries(ALTERNATIVES)) {
        const row = tallies.get(answer) ?? new Map<string, Tally>()
        const tally = row.get(name) ?? new Tally()
        tallies.set(answer, row.set(name, tally))
        tally.runs++
        const neededMs = Math.max(FLOOR_MS, needed(pauses, observedMs))
        const ends = [lastMs, ...sent]
        const closing = (i: number) => Math.max(FIVE_MINUTES_MS, ends[i]! + neededMs)
        const first = ends.findIndex((_, i) => closing(i) < (ends[i + 1] ?? Infinity))
        const closeMs = Math.min(closing(first), FIVE_MINUTES_MS + 20_000)
        if (first < ends.length - 1 && closing(first) <= closeMs) tally.early++
        else tally.waits.push(closeMs - Math.max(FIVE_MINUTES_MS, ends[ends.length - 1]!))
      }
    }
  }
  const total = (answer: string, known: boolean) => {
    const sum = new Tally()
    for (const [name, tally] of tallies.get(answer)!) if (!known || !BEYOND.includes(name)) sum.add(tally)
    return sum
  }
  const median = (answer: string, name: string) => `${(tallies.get(answer)!.get(name)!.quantile(0.5) / 1000).toFixed(1)} s`
  for (const answer of Object.keys(ALTERNATIVES)) {
    t.comment(`${answer.padEnd(33)} ${total(answer, true)}; all shapes: ${total(answer, false).early} early; median wait: ` +
      `Poisson ${median(answer, 'poisson')}, one odd pause ${median(answer, 'one pause of 2 s in 5 min')}`)
  }
  const chosen = total('10 x 99 %, weighted', false).early
  t.ok(total('66 x the mean (same for Poisson)', false).early > 10 * chosen, 'a plain rate closes early where traffic is bursty')
  t.ok(total('10 x 99 %, not weighted', false).early > 3 * chosen, 'so does a quantile that counts pauses')
  const odd = (answer: string) => tallies.get(answer)!.get('one pause of 2 s in 5 min')!.quantile(0.5)
  t.ok(odd('10 x the longest') > odd('10 x 99 %, weighted') + 1000, 'ten times the longest pays for one odd pause')
})
