// The judgement of silence: may closing begin? Pure. The numbers are those of test/deregistration/silence-simulation.ts:
// change one and run it with SIMULATION_RUNS=1000.

/** Five minutes of the past, forgotten a minute at a time: four to five. 1 % of it is the default floor, 3 s, so that
 *  a single pause is either too rare to count and shorter than the floor, or it counts. */
const MINUTES = 5
const MINUTE_MS = 60_000

/** Four buckets a doubling: the upper edge, which stands for every pause in it, is at most 19 % too long. */
const PER_DOUBLING = 4
/** The first bucket ends at 1 ms, the last but one at 311 s. The last one has no end. */
const BUCKETS = 75
const LAST_BUCKET = BUCKETS - 1

/** Longer pauses than the usual one take up this share of the time. */
const RARE = 0.01

/** How many usual pauses make a silence: the last of six nodes has pauses six times as long as all of them together. */
const FACTOR = 10

/** How many floors must have been watched: after fewer, traffic that comes and goes may not yet have shown its gap. */
const FLOORS_OBSERVED = 60
const LEAST_OBSERVED_MS = 6000

/** Timers count whole milliseconds, and a wait of none would spin. */
const LEAST_WAIT_MS = 1

/**
 * The pauses between two successive arrivals in the last five minutes of traffic, summed up by length.
 * The time before the first arrival and the silence that is still running are no pauses.
 */
export class Pauses {
  /** Milliseconds spent in pauses, one row of buckets a minute. Every record is a plain addition. */
  readonly #spentMs = new Float64Array(MINUTES * BUCKETS)
  #minute = 0

  /** Adds the pause of `pauseMs` that an arrival at `nowMs` (monotonic, 0 or more) has ended. Never throws. */
  record (pauseMs: number, nowMs: number): void {
    const minute = Math.floor(nowMs / MINUTE_MS)
    if (minute !== this.#minute) this.#forget(minute)
    const bucket = pauseMs <= 1 ? 0 : Math.min(LAST_BUCKET, Math.ceil(Math.log2(pauseMs) * PER_DOUBLING))
    this.#spentMs[(minute % MINUTES) * BUCKETS + bucket]! += pauseMs
  }

  /**
   * The pause that is usual here, in milliseconds: pauses longer than it take up 1 % of the time, no more. Rounded up
   * by at most 19 %; `Infinity` beyond 311 s; `undefined` as long as fewer than sixty floors (at least 6 s) of traffic
   * were seen.
   *
   * The five minutes end with the last arrival, not now: with the default deregistration delay of 300 s a service that
   * was busy has been silent for five minutes when its stop signal comes, and must still know that it was busy.
   */
  usual (floorMs: number): number | undefined {
    const spentMs = this.#spentMs
    let observedMs = 0
    for (let i = 0; i < spentMs.length; i++) observedMs += spentMs[i]!
    if (observedMs < Math.min(Math.max(LEAST_OBSERVED_MS, floorMs * FLOORS_OBSERVED), (MINUTES - 1) * MINUTE_MS)) return undefined

    let longerMs = 0
    let bucket = BUCKETS
    while (longerMs <= observedMs * RARE) {
      bucket--
      for (let row = 0; row < spentMs.length; row += BUCKETS) longerMs += spentMs[row + bucket]!
    }
    return bucket === LAST_BUCKET ? Infinity : 2 ** (bucket / PER_DOUBLING)
  }

  /** Empties the rows of the minutes that have begun since the last record, all of them after a long silence. */
  #forget (minute: number): void {
    for (let m = Math.max(this.#minute + 1, minute - MINUTES + 1); m <= minute; m++) {
      const row = (m % MINUTES) * BUCKETS
      this.#spentMs.fill(0, row, row + BUCKETS)
    }
    this.#minute = minute
  }
}

/** What is known at one instant of draining. All times in milliseconds on one monotonic clock. */
export interface Situation {
  readonly nowMs: number
  /** The stop signal. */
  readonly signalMs: number
  /** The last request, also when it came before the signal; `undefined` if there never was one. */
  readonly lastArrivalMs: number | undefined
  /** When the last response was out that others may have waited for; `undefined` if it does not matter. */
  readonly lastEndMs?: number | undefined
  /** `Pauses.usual` as it is now: the pauses since the signal, with fewer and fewer nodes, are evidence too. */
  readonly usualMs: number | undefined
  /** The setting `quiet`: no shorter silence is evidence. */
  readonly floorMs: number
  /** Draining ends here if no traffic comes any more. Not after `drainLimitMs`. */
  readonly drainEndMs: number
  /** Draining ends here whatever comes. */
  readonly drainLimitMs: number
  /** Responses whose headers are not out yet, streams apart. */
  readonly inFlight: number
}

/** `checkInMs`: whole milliseconds, at least 1, until the answer may be another one, if no request comes or ends. */
export type Judgement =
  | { readonly letGo: true, readonly reason: string }
  | { readonly letGo: false, readonly checkInMs: number }

/**
 * How long a silence, in milliseconds, is evidence that the load balancer has let go: the floor, and ten times the
 * usual pause. `Infinity` when no silence proves anything.
 */
export function neededSilence (usualMs: number | undefined, floorMs: number): number {
  return usualMs === undefined ? Infinity : Math.max(floorMs, FACTOR * usualMs)
}

/**
 * May closing begin? Before `drainEndMs` only silence with nothing in flight says so; from then on a silence of the
 * floor is enough, and what is in flight does not count, since closing waits for it; from `drainLimitMs` on, always.
 */
export function judge (situation: Situation): Judgement {
  const { nowMs, signalMs, lastArrivalMs = -Infinity, usualMs, floorMs, drainEndMs, drainLimitMs, inFlight } = situation
  const quietAtMs = lastArrivalMs + floorMs

  if (nowMs >= drainEndMs && nowMs >= quietAtMs) {
    const silence = quietAtMs > drainEndMs ? `, and no request came for ${seconds(nowMs - lastArrivalMs)}` : ''
    return { letGo: true, reason: `the deregistration window of ${seconds(drainEndMs - signalMs)} has passed${silence}` }
  }
  if (nowMs >= drainLimitMs) {
    return { letGo: true, reason: `the drain limit of ${seconds(drainLimitMs - signalMs)} was reached while requests still came` }
  }
  if (nowMs >= drainEndMs) return wait(Math.min(quietAtMs, drainLimitMs) - nowMs)

  const evidenceAtMs = inFlight > 0 ? Infinity : evidenceAt(situation)
  if (nowMs >= evidenceAtMs) {
    const usual = seconds(usualMs!)
    return { letGo: true, reason: `no request for ${seconds(nowMs - lastArrivalMs)}, the usual pause here is ${usual}` }
  }
  return wait(Math.min(evidenceAtMs, drainEndMs) - nowMs)
}

/** When the silence will be long enough. A client that waited for a response has a usual pause, tenfold, to go on. */
function evidenceAt ({ lastArrivalMs, lastEndMs = lastArrivalMs, usualMs, floorMs }: Situation): number {
  if (lastArrivalMs === undefined || lastEndMs === undefined) return Infinity
  return Math.max(lastArrivalMs + neededSilence(usualMs, floorMs), lastEndMs + neededSilence(usualMs, 0))
}

function wait (ms: number): Judgement {
  return { letGo: false, checkInMs: Math.max(LEAST_WAIT_MS, Math.ceil(ms)) }
}

function seconds (ms: number): string {
  const s = ms / 1000
  return `${s < 10 ? Number(s.toPrecision(2)) : Math.round(s)} s`
}
