// A process that only seems to be one: signals are calls, and an exit is a value.

import { type Clock } from '../../lib/clock.js'
import { type Environment } from '../../lib/config.js'
import { type Host } from '../../lib/host.js'

export class FakeHost implements Host {
  readonly env: Environment
  readonly #clock: Clock
  readonly #listeners = new Map<string, Function[]>()
  readonly #atExit: Array<() => void> = []
  #init: string | undefined
  /** What the process would have exited with, and on the clock when. The first one is the one that counts. */
  readonly exits: Array<{ code: number, atMs: number }> = []
  /** The limits that `closeAndExit` was called with, in milliseconds. */
  readonly limits: number[] = []

  constructor (clock: Clock, { env = {}, init }: { env?: Environment, init?: string } = {}) {
    this.#clock = clock
    this.env = env
    this.#init = init
  }

  on (event: string, listener: (...args: any[]) => void): void {
    this.#listeners.set(event, [...this.listeners(event), listener])
  }

  off (event: string, listener: (...args: any[]) => void): void {
    this.#listeners.set(event, this.listeners(event).filter((other) => other !== listener))
  }

  /** What the application calls in the middle of everything is `endProcess()`. */
  atExit (fn: () => void): void { this.#atExit.push(fn) }

  endProcess (): void { for (const fn of this.#atExit) fn() }

  listeners (event: string): Function[] {
    return this.#listeners.get(event) ?? []
  }

  /** How many listeners there are, whatever they listen to. */
  get listening (): number {
    return [...this.#listeners.values()].flat().length
  }

  /** A signal, or an error that nobody caught. */
  emit (event: string, ...args: unknown[]): void {
    for (const listener of this.listeners(event)) listener(...args)
  }

  closeAndExit (close: () => Promise<void>, limitMs: number, onLate: () => void): void {
    this.limits.push(limitMs)
    const cancel = this.#clock.after(limitMs, () => {
      onLate()
      this.exit(1)
    })
    const end = (code: number) => () => {
      cancel()
      this.exit(code)
    }
    close().then(end(0), end(1))
  }

  exit (code: number): void {
    this.exits.push({ code, atMs: this.#clock.now() })
  }

  get exitCode (): number | undefined {
    return this.exits[0]?.code
  }

  initCommand (): string | undefined {
    return this.#init
  }
}
