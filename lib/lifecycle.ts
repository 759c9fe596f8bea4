import type { State } from '../types/index.js'
import { FARGATE_ERR_ILLEGAL_MOVE } from './errors.js'

/** The legal moves. `starting -> closing` and `ready -> closing`: no wait for the load balancer is wanted. */
const MOVES: Readonly<Record<State, readonly State[]>> = {
  starting: ['ready', 'draining', 'closing'],
  ready: ['draining', 'closing'],
  draining: ['closing'],
  closing: ['closed'],
  closed: []
}

export type MoveListener = (from: State, to: State, reason: string) => void

/** The state of one Fastify instance, and the only place where it moves. */
export class Lifecycle {
  #state: State = 'starting'
  readonly #onMove: MoveListener

  constructor (onMove: MoveListener) {
    this.#onMove = onMove
  }

  get state (): State {
    return this.#state
  }

  /** Whether a stop has begun. */
  get isStopping (): boolean {
    return this.#state !== 'starting' && this.#state !== 'ready'
  }

  /** @throws FARGATE_ERR_ILLEGAL_MOVE */
  move (to: State, reason: string): void {
    const from = this.#state
    if (!MOVES[from].includes(to)) throw new FARGATE_ERR_ILLEGAL_MOVE(from, to)
    this.#state = to
    this.#onMove(from, to, reason)
  }
}
