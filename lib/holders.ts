import type { FastifyBaseLogger } from 'fastify'
import type { Holder } from '../types/index.js'
import { type Pending } from './pending.js'
import { listHolders } from './report.js'
import { type Requests } from './requests.js'
import { type Sockets } from './sockets.js'
import { type WebSockets } from './websockets.js'
import { type Work } from './work.js'

export interface HoldersParts {
  readonly log: FastifyBaseLogger
  readonly pending: Pending
  readonly requests: Requests
  readonly sockets: Sockets
  readonly webSockets: WebSockets
  readonly work: Work
}

/** A thousand streams are one line of the log, not a page of it. */
const MOST_KEPT = 100

/** Whoever holds the exit: named in the log, cut off, and remembered for the report. */
export class Holders {
  readonly #parts: HoldersParts
  readonly #cut: Holder[] = []
  #count = 0
  #isOver = false

  constructor (parts: HoldersParts) {
    this.#parts = parts
    parts.webSockets.onCut = (holder) => { this.#remember([holder]) }
    parts.work.onOverdue = (why, holder) => { this.#name(why, [holder]) }
  }

  /** Who was cut off, at most a hundred of them. */
  get cut (): Holder[] {
    return this.#cut
  }

  get cutCount (): number {
    return this.#count
  }

  /** Who is waited for now. While draining WebSocket clients are not: they may stay. */
  current (isDraining: boolean): Holder[] {
    const { pending, requests, webSockets } = this.#parts
    return [...requests.holders(), ...isDraining ? [] : webSockets.holders(), ...pending.holders()]
  }

  /** Cuts what may go on for ever: streams, WebSockets, and connections that were upgraded by hand. */
  cutStreams (why: string): void {
    const { requests, sockets, webSockets } = this.#parts
    const streams = webSockets.holders()
    webSockets.terminateAll()
    streams.push(...requests.cutStreams(), ...sockets.cutUpgraded())
    if (streams.length > 0) this.#name(why, streams)
  }

  /** Cuts everything off. A second call does nothing. */
  cutAll (why: string, closingFor: () => number): void {
    if (this.#isOver) return
    this.#isOver = true
    const { sockets, webSockets } = this.#parts
    const holders = this.current(false)
    webSockets.terminateAll()
    holders.push(...sockets.cutUpgraded())
    if (holders.length === 0) holders.push(...sockets.holders())
    if (holders.length === 0) holders.push({ kind: 'hook', name: 'a preClose or onClose hook', ageMs: Math.round(closingFor()) })
    sockets.destroyAll()
    this.#name(why, holders)
  }

  #name (why: string, holders: Holder[]): void {
    this.#remember(holders)
    this.#parts.log.error({ holders: holders.slice(0, MOST_KEPT) }, `${why}; cut off: ${listHolders(holders)}`)
  }

  #remember (holders: Holder[]): void {
    this.#count += holders.length
    this.#cut.push(...holders.slice(0, MOST_KEPT - this.#cut.length))
  }
}
