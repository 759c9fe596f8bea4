import type { Holder } from '../types/index.js'
import { type Clock } from './clock.js'

/** Something that has begun and not ended, and has a name. */
export interface Entry {
  readonly kind: 'hook' | 'job' | 'worker'
  readonly name: string
  readonly since: number
  /** More about it, for the log. */
  readonly detail?: (() => string) | undefined
}

/** What the stop waits for beside requests: hooks, jobs and workers. */
export class Pending {
  readonly #clock: Clock
  readonly #entries = new Set<Entry>()
  #wake: Array<() => void> = []

  constructor (clock: Clock) {
    this.#clock = clock
  }

  begin (kind: Entry['kind'], name: string, detail?: () => string): Entry {
    const entry = { kind, name, since: this.#clock.now(), detail }
    this.#entries.add(entry)
    return entry
  }

  /** Returns whether it was still waited for. */
  end (entry: Entry): boolean {
    const wasPending = this.#entries.delete(entry)
    const wake = this.#wake
    this.#wake = []
    for (const resolve of wake) resolve()
    return wasPending
  }

  /** Waits for nothing any more, and says who is left. */
  giveUp (): Holder[] {
    const holders = this.holders()
    for (const entry of [...this.#entries]) this.end(entry)
    return holders
  }

  get size (): number {
    return this.#entries.size
  }

  /** Resolves when the next one ends. */
  nextEnd (): Promise<void> {
    return new Promise((resolve) => { this.#wake.push(resolve) })
  }

  /** Resolves when all have ended, also those that begin meanwhile. */
  async settled (): Promise<void> {
    while (this.#entries.size > 0) await this.nextEnd()
  }

  /** Oldest first. */
  holders (): Holder[] {
    return [...this.#entries].map((entry) => this.describe(entry))
  }

  describe ({ kind, name, since, detail }: Entry): Holder {
    const more = detail?.() ?? ''
    return { kind, name: more === '' ? name : `${name}, ${more}`, ageMs: Math.round(this.#clock.now() - since) }
  }
}
