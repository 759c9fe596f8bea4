import { setMaxListeners } from 'node:events'
import { type Clock } from './clock.js'
import { type Timeline } from './timeline.js'

const MARKS = ['drainLimit', 'abort', 'streamLimit', 'deadline'] as const
type Mark = typeof MARKS[number]

/** A stop that walks its timeline: each mark is a signal that is aborted when the mark is reached. */
export class Countdown {
  readonly #clock: Clock
  readonly #timeline: Timeline
  readonly #controllers: Readonly<Record<Mark, AbortController>>
  #cancel: Array<() => void> = []
  #startedAt: number | undefined
  #deadlineAt = Infinity

  constructor (clock: Clock, timeline: Timeline) {
    this.#clock = clock
    this.#timeline = timeline
    this.#controllers = { drainLimit: newController(), abort: newController(), streamLimit: newController(), deadline: newController() }
  }

  get drainLimit (): AbortSignal { return this.#controllers.drainLimit.signal }
  get abort (): AbortSignal { return this.#controllers.abort.signal }
  get streamLimit (): AbortSignal { return this.#controllers.streamLimit.signal }
  get deadline (): AbortSignal { return this.#controllers.deadline.signal }

  /** On the clock; `undefined` before `start()`. */
  get startedAt (): number | undefined { return this.#startedAt }

  /** Begins to walk. A second call does nothing: the first stop signal is the one that ECS counts from. */
  start (): void {
    if (this.#startedAt !== undefined) return
    this.#startedAt = this.#clock.now()
    this.#deadlineAt = this.#startedAt + this.#timeline.deadline
    this.#arm(this.#timeline)
  }

  /** Moves to the abort mark now: what is left has the abort grace to end. */
  hasten (): void {
    if (this.#startedAt === undefined) return
    const grace = this.#timeline.deadline - this.#timeline.abort
    this.#deadlineAt = Math.min(this.#deadlineAt, this.#clock.now() + grace)
    this.stop()
    this.#controllers.drainLimit.abort()
    this.#controllers.abort.abort()
    const left = Math.max(0, this.#deadlineAt - this.#clock.now())
    this.#arm({ streamLimit: left / 2, deadline: left })
  }

  /** Milliseconds since the stop signal. */
  elapsed (): number {
    return this.#startedAt === undefined ? 0 : this.#clock.now() - this.#startedAt
  }

  /** Milliseconds to the deadline, never below 0; `Infinity` before `start()`. */
  remaining (): number {
    return Math.max(0, this.#deadlineAt - this.#clock.now())
  }

  /** Leaves no timer behind. Marks not yet reached never will be. */
  stop (): void {
    for (const cancel of this.#cancel) cancel()
    this.#cancel = []
  }

  #arm (offsets: Partial<Record<Mark, number>>): void {
    for (const mark of MARKS) {
      const offset = offsets[mark]
      if (offset !== undefined) this.#cancel.push(this.#clock.after(offset, () => { this.#controllers[mark].abort() }))
    }
  }
}

/** Any number of jobs and handlers may listen to one of these signals; that is no leak. */
export function newController (): AbortController {
  const controller = new AbortController()
  setMaxListeners(0, controller.signal)
  return controller
}

/** Resolves with `true` when `promise` has settled, with `false` when `signal` came first. Never rejects. */
export function settledBefore (signal: AbortSignal, promise: Promise<unknown>): Promise<boolean> {
  return new Promise((resolve) => {
    const late = () => { resolve(false) }
    const settled = () => {
      signal.removeEventListener('abort', late)
      resolve(true)
    }
    if (signal.aborted) {
      // A promise that has settled already counts as settled even now.
      Promise.race([promise, Promise.resolve('late')]).then((first) => { resolve(first !== 'late') }, settled)
      return
    }
    signal.addEventListener('abort', late)
    promise.then(settled, settled)
  })
}
