import { type Clock } from './clock.js'
import { Pauses } from './deregistration/silence.js'

/** Twenty milliseconds in which requests arrived. They share its time, so that a request costs no clock reading. */
export interface Tick {
  /** Its end, on the clock; `undefined` until then. */
  at: number | undefined
  /** Requests that arrived in it and are traffic. */
  traffic: number
}

/** Pauses are told apart down to this. Ten of them are a tenth of the silence that is asked for by default. */
const TICK_MS = 20

/** When requests came: the last one, and the pauses between them. */
export class Arrivals {
  readonly #clock: Clock
  readonly #onTick: () => void
  readonly #pauses = new Pauses()
  #tick: Tick | undefined
  #cancelTick: (() => void) | undefined
  #lastAt: number | undefined
  #previousAt: number | undefined
  /** Whether the pause between these two is still to be recorded: the last arrival may be taken back. */
  #isPauseOpen = false
  /** What the last arrival was part of: a tick, or whatever `came()` was given. */
  #last: object | undefined

  /** @param onTick called when a tick begins, that is at most fifty times a second and only if requests come */
  constructor (clock: Clock, onTick: () => void) {
    this.#clock = clock
    this.#onTick = onTick
  }

  /** A request came, some time in the tick that is returned. */
  countNow (): Tick {
    const tick = this.#tick ?? this.#begin()
    tick.traffic++
    return tick
  }

  #begin (): Tick {
    this.#tick = { at: undefined, traffic: 0 }
    this.#cancelTick = this.#clock.inBackground(TICK_MS, () => { this.stop() })
    this.#onTick()
    return this.#tick
  }

  /** Ends the tick that is under way, and leaves no timer. */
  stop (): void {
    const tick = this.#tick
    if (tick === undefined) return
    this.#tick = undefined
    this.#cancelTick!()
    tick.at = this.#clock.now()
    if (tick.traffic > 0) this.came(tick.at, tick)
  }

  /** A request came at this very time, or a tick has ended. */
  came (at: number, arrival: object): void {
    this.#closePause()
    this.#previousAt = this.#lastAt
    this.#lastAt = at
    this.#last = arrival
    this.#isPauseOpen = this.#previousAt !== undefined
  }

  #closePause (): void {
    if (!this.#isPauseOpen) return
    this.#isPauseOpen = false
    this.#pauses.record(this.#lastAt! - this.#previousAt!, this.#lastAt!)
  }

  /** A request of this tick is no traffic. The tick may have ended already, behind a slow hook of the application. */
  discount (tick: Tick): void {
    tick.traffic--
    if (tick.traffic === 0) this.takeBack(tick)
  }

  /** Unless another arrival came meanwhile, it is as if this one never had. */
  takeBack (arrival: object): void {
    if (arrival !== this.#last) return
    this.#lastAt = this.#previousAt
    this.#isPauseOpen = false
  }

  /** When the last request that is traffic came, on the clock. */
  get lastAt (): number | undefined {
    return this.#lastAt
  }

  /** The pause that is usual here, in milliseconds; `undefined` when there were too few requests. */
  usualPause (floorMs: number): number | undefined {
    this.#closePause()
    return this.#pauses.usual(floorMs)
  }
}
