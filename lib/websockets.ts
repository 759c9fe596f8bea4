import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Holder } from '../types/index.js'
import { type Clock, sleep } from './clock.js'
import { newController } from './countdown.js'

/** What is used of a WebSocket of `ws`. */
export interface WebSocketClient {
  close (code: number, reason: string): void
  terminate (): void
  once (event: 'close', listener: () => void): unknown
}

/** What is used of `fastify.websocketServer`, which @fastify/websocket makes. */
export interface WebSocketServer {
  on (event: 'connection', listener: (client: WebSocketClient, request: IncomingMessage) => void): unknown
}

interface Known {
  readonly client: WebSocketClient
  readonly path: string
  readonly remoteAddress: string | undefined
  /** On the clock. */
  readonly since: number
  toldAt: number | undefined
}

const GOING_AWAY = 1001
const REASON = 'the service is stopping'

/** Clients told in one turn of the event loop. */
const BATCH = 250
/** A pace is kept in steps of at least this. */
const STEP_MS = 20

/**
 * The WebSocket clients of one Fastify instance. They are told to go with close code 1001, at a pace, and cut when they
 * do not answer: a client that has left without a word would hold the process for the 30 s that `ws` gives it.
 */
export class WebSockets {
  readonly #clock: Clock
  readonly #graceMs: number
  readonly #servers = new Set<WebSocketServer>()
  readonly #clients = new Map<WebSocketClient, Known>()
  /** In the order in which they were told. */
  readonly #told = new Set<Known>()
  #pump: AbortController | undefined
  #cancelSweep: (() => void) | undefined
  #isClosing = false
  /** Called for a client that has not answered its close frame in time. */
  onCut: (holder: Holder) => void = () => {}

  /** @param graceMs how long a client has to answer its close frame */
  constructor (clock: Clock, graceMs: number) {
    this.#clock = clock
    this.#graceMs = graceMs
  }

  /** Follows the clients of a server. A second call for the same server does nothing. */
  track (server: WebSocketServer): void {
    if (this.#servers.has(server)) return
    this.#servers.add(server)
    server.on('connection', (client, { url = '', socket }: { url?: string | undefined, socket?: Socket | undefined }) => {
      // Without the query string: it may carry what must not be logged.
      const known = { client, path: url.split('?', 1)[0]!, remoteAddress: socket?.remoteAddress, since: this.#clock.now(), toldAt: undefined }
      this.#clients.set(client, known)
      client.once('close', () => {
        this.#clients.delete(client)
        this.#told.delete(known)
        if (this.#told.size === 0) this.#stopSweeping()
      })
      if (this.#isClosing) this.#tell([known])
    })
  }

  /**
   * Tells every client to go, evenly over `windowMs`, and the rest at once when `hurry` is aborted. Resolves when all
   * have been told. A second call takes over what is left of the first.
   * @param isLast whoever connects from here on is told at once
   */
  async announce (windowMs: number, hurry: AbortSignal, isLast: boolean): Promise<void> {
    this.#isClosing ||= isLast
    this.#pump?.abort()
    const pump = this.#pump = newController()
    const untold = [...this.#clients.values()].filter(({ toldAt }) => toldAt === undefined)
    const startedAt = this.#clock.now()
    const stepMs = Math.max(STEP_MS, windowMs / untold.length)
    const perStep = Math.max(1, untold.length * STEP_MS / windowMs)
    for (let told = 0; told < untold.length && !pump.signal.aborted;) {
      const isPaced = !hurry.aborted && windowMs > 0
      const steps = Math.floor((this.#clock.now() - startedAt) / stepMs) + 1
      const due = Math.min(untold.length, isPaced ? Math.ceil(steps * perStep) : told + BATCH)
      this.#tell(untold.slice(told, due))
      told = due
      if (told === untold.length) break
      if (isPaced) await sleep(this.#clock, stepMs, hurry, pump.signal)
      else await new Promise<void>((resolve) => { this.#clock.endOfTurn(resolve) })
    }
  }

  #tell (clients: Known[]): void {
    for (const known of clients) {
      // It may have gone meanwhile.
      if (!this.#clients.has(known.client)) continue
      known.toldAt = this.#clock.now()
      this.#told.add(known)
      known.client.close(GOING_AWAY, REASON)
    }
    this.#sweep()
  }

  /** Cuts those whose time to answer is over, and comes again when the next one's is. */
  #sweep (): void {
    this.#stopSweeping()
    const now = this.#clock.now()
    for (const known of this.#told) {
      const leftMs = known.toldAt! + this.#graceMs - now
      if (leftMs > 0) {
        this.#cancelSweep = this.#clock.after(leftMs, () => { this.#sweep() })
        return
      }
      this.onCut(this.#holder(known))
      this.#told.delete(known)
      // Its 'close' may be late, and nobody is to be cut twice.
      this.#clients.delete(known.client)
      known.client.terminate()
    }
  }

  #stopSweeping (): void {
    this.#cancelSweep?.()
    this.#cancelSweep = undefined
  }

  /** Leaves no timer behind. */
  stop (): void {
    this.#pump?.abort()
    this.#stopSweeping()
  }

  /** Who is still connected, oldest first. */
  holders (): Holder[] {
    return [...this.#clients.values()].map((known) => this.#holder(known))
  }

  #holder ({ path, since, remoteAddress }: Known): Holder {
    return {
      kind: 'websocket',
      name: `WebSocket ${path}`,
      ageMs: Math.round(this.#clock.now() - since),
      path,
      ...(remoteAddress !== undefined && { remoteAddress })
    }
  }

  /** Cuts everyone off. */
  terminateAll (): void {
    this.stop()
    for (const client of this.#clients.keys()) client.terminate()
  }
}
