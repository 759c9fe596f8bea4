import type { StopContext, StopHook } from '../types/index.js'
import { FARGATE_ERR_BAD_ARGUMENT } from './errors.js'
import { type Pending } from './pending.js'
import { show } from './settings.js'

export type HookKind = 'onDraining' | 'onClosing'

/** The application's `onDraining` and `onClosing` hooks: run side by side, isolated from each other, each with a name. */
export class Hooks {
  readonly #pending: Pending
  readonly #onError: (where: string, error: unknown) => void
  readonly #registered: Record<HookKind, StopHook[]> = { onDraining: [], onClosing: [] }
  readonly #started: Partial<Record<HookKind, StopContext>> = {}

  constructor (pending: Pending, onError: (where: string, error: unknown) => void) {
    this.#pending = pending
    this.#onError = onError
  }

  /** A hook that is added when its moment has passed already runs at once: nothing is forgotten. */
  add (kind: HookKind, hook: StopHook): void {
    if (typeof hook !== 'function') throw new FARGATE_ERR_BAD_ARGUMENT(`fastify.shutdown.${kind}`, 'a function', show(hook))
    this.#registered[kind].push(hook)
    const context = this.#started[kind]
    if (context !== undefined) void this.#call(kind, hook, this.#registered[kind].length, context)
  }

  /** Calls all hooks of a kind, once. */
  run (kind: HookKind, context: StopContext): void {
    if (this.#started[kind] !== undefined) return
    this.#started[kind] = context
    this.#registered[kind].forEach((hook, index) => { void this.#call(kind, hook, index + 1, context) })
  }

  async #call (kind: HookKind, hook: StopHook, number: number, context: StopContext): Promise<void> {
    const name = `${kind} hook ${hook.name === '' ? `#${number}` : hook.name}`
    const entry = this.#pending.begin('hook', name)
    try {
      await hook(context)
    } catch (error) {
      this.#onError(name, error)
    }
    this.#pending.end(entry)
  }
}
