import { performance } from 'node:perf_hooks'

/** Time as the plugin sees it. Milliseconds on one monotonic clock. Tests bring their own. */
export interface Clock {
  /** Milliseconds; only differences mean anything. */
  now (): number
  /** Calls `fn` once, `ms` from now. Returns a function that calls it off. The timer keeps the process alive. */
  after (ms: number, fn: () => void): () => void
  /** The same with a timer that does not keep the process alive. */
  inBackground (ms: number, fn: () => void): () => void
  /** Calls `fn` once, at the end of this turn of the event loop. */
  endOfTurn (fn: () => void): void
}

/** The longest a timer of Node's can be set to; a longer one fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => performance.now(),
  after (ms, fn) {
    // A timer may fire up to a millisecond early by this clock, as libuv counts whole ones; late is safe, early is not.
    const timer = setTimeout(fn, Math.min(Math.ceil(ms) + 1, LONGEST_TIMER_MS))
    return () => clearTimeout(timer)
  },
  inBackground (ms, fn) {
    const timer = setTimeout(fn, ms).unref()
    return () => clearTimeout(timer)
  },
  endOfTurn (fn) {
    setImmediate(fn)
  }
}

/** Resolves after `ms`, or as soon as one of `until` is aborted or settles. Never rejects, leaves no timer. */
export function sleep (clock: Clock, ms: number, ...until: Array<AbortSignal | Promise<unknown>>): Promise<void> {
  return new Promise((resolve) => {
    const signals = until.filter((one) => one instanceof AbortSignal)
    const done = () => {
      cancel()
      for (const signal of signals) signal.removeEventListener('abort', done)
      resolve()
    }
    const cancel = clock.after(ms, done)
    for (const one of until) {
      if (one instanceof AbortSignal) one.addEventListener('abort', done)
      else one.then(done, done)
    }
    if (signals.some(({ aborted }) => aborted)) done()
  })
}

/** Runs `fn` with a time limit of `seconds`, and until one of `until` is aborted; then its signal is aborted. Rejects with what `onLate` makes. */
export async function limited<T> (
  clock: Clock, seconds: number, fn: (signal: AbortSignal) => T, onLate: () => Error, ...until: AbortSignal[]
): Promise<Awaited<T>> {
  const controller = new AbortController()
  const running = Promise.resolve(controller.signal).then(fn)
  let isSettled = false
  const settled = running.then(() => { isSettled = true }, () => { isSettled = true })
  await sleep(clock, seconds * 1000, settled, ...until)
  if (isSettled) return await running
  const late = onLate()
  controller.abort(late)
  throw late
}
