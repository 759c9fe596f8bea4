import type { Holder, StopContext, StopHook } from '../types/index.js'
import { type Clock } from './clock.js'
import { FARGATE_ERR_BAD_HOOK } from './errors.js'
import { show } from './settings.js'

export type HookKind = 'onDraining' | 'onClosing'

/** The application's `onDraining` and `onClosing` hooks: run side by side, isolated from each other, each with a name. */
export class Hooks {
  readonly #clock: Clock
  readonly #onError: (where: string, error: unknown) => void
  readonly #registered: Record<HookKind, StopHook[]> = { onDraining: [], onClosing: [] }
  readonly #pending = new Set<{ readonly name: string, readonly since: number }>()
  readonly #running: Array<Promise<void>> = []
  readonly #started: Partial<Record<HookKind, StopContext>> = {}

  constructor (clock: Clock, onError: (where: string, error: unknown) => void) {
    this.#clock = clock
    this.#onError = onError
  }

  /** A hook that is added when its moment has passed already runs at once: nothing is forgotten. */
  add (kind: HookKind, hook: StopHook): void {
    if (typeof hook !== 'function') throw new FARGATE_ERR_BAD_HOOK(kind, show(hook))
    this.#registered[kind].push(hook)
    const context = this.#started[kind]
    if (context !== undefined) this.#call(kind, hook, this.#registered[kind].length, context)
  }

  /** Calls all hooks of a kind, once. */
  run (kind: HookKind, context: StopContext): void {
    if (this.#started[kind] !== undefined) return
    this.#started[kind] = context
    this.#registered[kind].forEach((hook, index) => { this.#call(kind, hook, index + 1, context) })
  }

  #call (kind: HookKind, hook: StopHook, number: number, context: StopContext): void {
    const name = `${kind} hook ${hook.name === '' ? `#${number}` : hook.name}`
    const pending = { name, since: this.#clock.now() }
    this.#pending.add(pending)
    const call = async () => {
      try {
        await hook(context)
      } catch (error) {
        this.#onError(name, error)
      }
      this.#pending.delete(pending)
    }
    this.#running.push(call())
  }

  /** Resolves when all hooks that were called have ended, also those that are called meanwhile. */
  async settled (): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#running)
  }

  get pending (): number {
    return this.#pending.size
  }

  holders (): Holder[] {
    const now = this.#clock.now()
    return [...this.#pending].map(({ name, since }) => ({ kind: 'hook', name, ageMs: Math.round(now - since) }))
  }
}
