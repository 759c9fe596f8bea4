// Time that stands still until a test moves it.

import { type Clock } from '../../lib/clock.js'

interface Timer {
  readonly at: number
  readonly fn: () => void
  readonly isBackground: boolean
}

export interface ManualClockOptions {
  /** Where the clock starts. Not 0, so that nothing takes an instant for a duration. */
  startMs?: number
  /**
   * Turns of the event loop end by themselves: for tests with real sockets, which real turns feed. Without it a turn
   * ends when the test says so: `endTurn()` or `advance()`.
   */
  realTurns?: boolean
}

export class ManualClock implements Clock {
  readonly #realTurns: boolean
  readonly #timers = new Set<Timer>()
  #turn: Array<() => void> = []
  #realTurnsPending = 0
  #nowMs: number

  constructor ({ startMs = 1_000_000, realTurns = false }: ManualClockOptions = {}) {
    this.#nowMs = startMs
    this.#realTurns = realTurns
  }

  // Arrow functions: `Clock` may be taken apart.
  readonly now = (): number => this.#nowMs

  readonly after = (ms: number, fn: () => void): (() => void) => this.#set(ms, fn, false)

  readonly inBackground = (ms: number, fn: () => void): (() => void) => this.#set(ms, fn, true)

  #set (ms: number, fn: () => void, isBackground: boolean): () => void {
    const timer: Timer = { at: this.#nowMs + Math.max(0, ms), fn, isBackground }
    this.#timers.add(timer)
    return () => { this.#timers.delete(timer) }
  }

  readonly endOfTurn = (fn: () => void): void => {
    if (!this.#realTurns) {
      this.#turn.push(fn)
      return
    }
    this.#realTurnsPending++
    setImmediate(() => {
      this.#realTurnsPending--
      fn()
    })
  }

  /** What would keep the process alive: timers, and ends of turns that are still to come. Zero: nothing was left behind. */
  get pending (): number {
    return this.#timers.size - this.background + this.#turn.length + this.#realTurnsPending
  }

  /** Timers that would not keep the process alive. */
  get background (): number {
    return [...this.#timers].filter(({ isBackground }) => isBackground).length
  }

  /** When the timers are due, in milliseconds from now, the next one first. */
  get dueInMs (): number[] {
    return [...this.#timers].map(({ at }) => at - this.#nowMs).sort((a, b) => a - b)
  }

  /** Ends this turn of the event loop. What asks for the end of a turn meanwhile gets the next one. */
  endTurn (): void {
    const turn = this.#turn
    this.#turn = []
    for (const fn of turn) fn()
  }

  /** Lets go on what is due now: promises, and turns of the event loop. Time stands still. */
  async settle (): Promise<void> {
    do {
      this.endTurn()
      await turnOfEventLoop()
    } while (this.#turn.length > 0)
  }

  /** Moves time, one timer after the other, each with everything that follows from it. */
  async advance (ms: number): Promise<void> {
    const until = this.#nowMs + ms
    await this.settle()
    for (let timer = this.#next(until); timer !== undefined; timer = this.#next(until)) {
      this.#timers.delete(timer)
      this.#nowMs = Math.max(this.#nowMs, timer.at)
      timer.fn()
      await this.settle()
    }
    this.#nowMs = until
  }

  /** The same without a turn of the real event loop, where no promise waits for time: hours of traffic in an instant. */
  skip (ms: number): void {
    const until = this.#nowMs + ms
    this.endTurn()
    for (let timer = this.#next(until); timer !== undefined; timer = this.#next(until)) {
      this.#timers.delete(timer)
      this.#nowMs = Math.max(this.#nowMs, timer.at)
      timer.fn()
    }
    this.#nowMs = until
  }

  /** The earliest timer until then; of several at one instant the one that was set first. */
  #next (until: number): Timer | undefined {
    let next: Timer | undefined
    for (const timer of this.#timers) {
      if (timer.at <= until && (next === undefined || timer.at < next.at)) next = timer
    }
    return next
  }
}

/** Every promise that can settle without I/O has settled after it. */
export function turnOfEventLoop (): Promise<void> {
  return new Promise((resolve) => { setImmediate(resolve) })
}
