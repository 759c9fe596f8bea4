import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { Holder } from '../types/index.js'
import { type Clock } from './clock.js'
import { Pauses } from './deregistration/silence.js'

/** A request and its response. */
export interface Exchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly connection: Connection
  /** The arrival, on the clock. */
  readonly at: number
  /** Known when the application logs. */
  request: FastifyRequest | undefined
  isTraffic: boolean
  /** Whether its response was made to say `Connection: close`. */
  isLast: boolean
}

/** What is known of a connection: its latest exchange, and earlier ones that were open then if the client pipelines. */
export class Connection {
  readonly socket: Socket
  /** On the clock. */
  readonly since: number
  latest: Exchange | undefined = undefined
  earlier: Exchange[] = []

  constructor (socket: Socket, since: number) {
    this.socket = socket
    this.since = since
  }

  /** Exchanges whose response is not flushed yet, oldest first. */
  open (): Exchange[] {
    if (this.latest === undefined) return this.earlier
    return [...this.earlier, this.latest].filter(isOpen)
  }

  /** Lets go of what has ended, so that an idle connection does not keep its last request in memory. */
  forget (): void {
    if (this.latest !== undefined && !isOpen(this.latest)) this.latest = undefined
    if (this.earlier.length > 0) this.earlier = this.earlier.filter(isOpen)
  }
}

/** A response is destroyed when it has been flushed, and when its client is gone; 'close' comes at the same time. */
function isOpen ({ res }: Exchange): boolean {
  return !((res as Http2Response).stream ?? res).destroyed
}

/** What Node hands out for HTTP/2 is no stream itself. */
type Http2Response = ServerResponse & { stream?: { destroyed: boolean, rstCode: number } }

function isWhole (res: Http2Response): boolean {
  return res.stream === undefined ? res.writableFinished : res.stream.rstCode === 0
}

/** How long an idle connection may keep its last request in memory. */
const FORGET_AFTER_MS = 1000

export const kConnection = Symbol('fastify-fargate.connection')

type KnownSocket = Socket & { [kConnection]?: Connection }

/**
 * The requests of one Fastify instance: when the last one came and how long the pauses between them usually are; from
 * the stop signal on also which are in flight.
 *
 * Before the stop signal a request costs one clock reading, one small object and no listener on its response. What is in
 * flight is found when it is asked for.
 */
export class Requests {
  readonly #clock: Clock
  readonly #connections: ReadonlySet<Connection>
  readonly #pauses = new Pauses()
  readonly #inFlight = new Set<Exchange>()
  /** Arrivals on the clock. -Infinity: none. Never undefined, which would have every request allocate a number. */
  #lastArrivalAt = -Infinity
  #previousArrivalAt = -Infinity
  /** Whether the pause between these two is still to be recorded: the last arrival may turn out to be no traffic. */
  #isPauseOpen = false
  #cancelForgetting: (() => void) | undefined
  /** When `drain()` was called, on the clock. */
  #drainingSince: number | undefined
  #lastEndAt: number | undefined
  #served = 0
  #hasBeenProbed = false
  #wake: Array<() => void> = []
  /** Called when a response has been flushed or its connection is gone; only after `drain()`. */
  onEnd: (exchange: Exchange) => void = () => {}

  constructor (clock: Clock, connections: ReadonlySet<Connection>) {
    this.#clock = clock
    this.#connections = connections
  }

  /** Listener of the server's `request` event. */
  readonly arrived = (req: IncomingMessage, res: ServerResponse): void => {
    const connection = (req.socket as KnownSocket)[kConnection]
    // A connection that was there before the plugin was: nothing routes to a service that is still booting.
    if (connection === undefined) return
    const now = this.#clock.now()
    this.#closePause()
    this.#previousArrivalAt = this.#lastArrivalAt
    this.#lastArrivalAt = now
    this.#isPauseOpen = this.#previousArrivalAt !== -Infinity

    const { latest } = connection
    if (latest !== undefined && isOpen(latest)) connection.earlier.push(latest)
    const exchange = connection.latest = { req, res, connection, at: now, request: undefined, isTraffic: true, isLast: false }
    if (this.#drainingSince !== undefined) this.#follow(exchange)
    else this.#cancelForgetting ??= this.#clock.inBackground(FORGET_AFTER_MS, this.#forget)
  }

  #closePause (): void {
    if (!this.#isPauseOpen) return
    this.#isPauseOpen = false
    this.#pauses.record(this.#lastArrivalAt - this.#previousArrivalAt, this.#lastArrivalAt)
  }

  readonly #forget = (): void => {
    this.#cancelForgetting = undefined
    for (const connection of this.#connections) connection.forget()
  }

  /** Fastify's view of a request: gives its exchange a route and an id. */
  name (request: FastifyRequest): void {
    const exchange = find(request.raw)
    if (exchange !== undefined) exchange.request = request
  }

  /** This request did not come through the load balancer: it is no evidence. */
  ignore (raw: IncomingMessage): void {
    const exchange = find(raw)
    if (exchange === undefined || !exchange.isTraffic) return
    exchange.isTraffic = false
    // Unless another one came meanwhile, it is as if this one never had.
    if (exchange.at !== this.#lastArrivalAt) return
    this.#lastArrivalAt = this.#previousArrivalAt
    this.#isPauseOpen = false
  }

  /** A request to the plugin's own routes. */
  probed (raw: IncomingMessage): void {
    // The check at boot is no probe: it has no connection.
    if (find(raw) !== undefined) this.#hasBeenProbed = true
    this.ignore(raw)
  }

  /** From here on every HTTP/1.1 response says `Connection: close`, and what is in flight is followed. */
  drain (): void {
    if (this.#drainingSince !== undefined) return
    this.#drainingSince = this.#clock.now()
    this.stop()
    for (const connection of this.#connections) connection.open().forEach(this.#follow, this)
  }

  /** Leaves no timer behind. */
  stop (): void {
    this.#cancelForgetting?.()
    this.#cancelForgetting = undefined
  }

  #follow (exchange: Exchange): void {
    const { connection, res } = exchange
    // The client pipelines: an answer before this one must not close the connection under it.
    for (const earlier of connection.earlier) {
      if (earlier.isLast && !earlier.res.headersSent) earlier.res.shouldKeepAlive = true
    }
    if (!res.headersSent && res.shouldKeepAlive) {
      res.shouldKeepAlive = false
      exchange.isLast = true
    }
    this.#inFlight.add(exchange)
    // 'close', not 'finish': only then have all bytes been handed to the kernel. Also comes when a client aborts.
    res.once('close', () => { this.#ended(exchange) })
  }

  /** The connection is gone. Node tells the response whose turn it was, but not the pipelined ones behind it. */
  gone (connection: Connection): void {
    for (const exchange of [...this.#inFlight]) if (exchange.connection === connection) this.#ended(exchange)
  }

  #ended (exchange: Exchange): void {
    if (!this.#inFlight.delete(exchange)) return
    exchange.connection.forget()
    if (exchange.isTraffic) {
      this.#lastEndAt = this.#clock.now()
      if (isWhole(exchange.res) && exchange.at > this.#drainingSince!) this.#served++
    }
    this.onEnd(exchange)
    const wake = this.#wake
    this.#wake = []
    for (const resolve of wake) resolve()
  }

  /** Resolves when the next response ends. */
  nextEnd (): Promise<void> {
    return new Promise((resolve) => { this.#wake.push(resolve) })
  }

  /** Responses that have not been flushed. After `drain()`. */
  get inFlight (): number {
    return this.#inFlight.size
  }

  /** Requests whose response has not begun. After `drain()`. A response that has begun may be endless: a stream. */
  get unanswered (): number {
    let count = 0
    for (const { res } of this.#inFlight) if (!res.headersSent) count++
    return count
  }

  /** As `unanswered`, of the requests that came through the load balancer. */
  get unansweredTraffic (): number {
    let count = 0
    for (const { res, isTraffic } of this.#inFlight) if (isTraffic && !res.headersSent) count++
    return count
  }

  /** Requests that arrived after `drain()` and were answered, probes apart. */
  get served (): number {
    return this.#served
  }

  /** Whether the readiness or the liveness route was ever asked. */
  get hasBeenProbed (): boolean {
    return this.#hasBeenProbed
  }

  /** When the last request that is traffic arrived, on the clock. */
  get lastArrivalAt (): number | undefined {
    return this.#lastArrivalAt === -Infinity ? undefined : this.#lastArrivalAt
  }

  /** The pause between two requests that is usual here, in milliseconds; `undefined` when there were too few. */
  usualPause (floorMs: number): number | undefined {
    this.#closePause()
    return this.#pauses.usual(floorMs)
  }

  /** When the last response of traffic ended since `drain()`, on the clock. */
  get lastEndAt (): number | undefined {
    return this.#lastEndAt
  }

  /** Everything in flight, oldest first. After `drain()`. */
  holders (): Holder[] {
    const now = this.#clock.now()
    return [...this.#inFlight].map(({ req, res, at, request }) => {
      // Without the query string: it may carry what must not be logged.
      const path = (req.url ?? '').split('?', 1)[0]!
      return {
        kind: res.headersSent ? 'response' as const : 'request' as const,
        name: `${req.method} ${request?.routeOptions.url ?? path}`,
        ageMs: Math.round(now - at),
        path,
        ...(request !== undefined && { requestId: request.id }),
        ...(req.socket.remoteAddress !== undefined && { remoteAddress: req.socket.remoteAddress })
      }
    }).sort((a, b) => b.ageMs - a.ageMs)
  }
}

function find (raw: IncomingMessage): Exchange | undefined {
  const connection = (raw.socket as KnownSocket)[kConnection]
  if (connection?.latest?.req === raw) return connection.latest
  return connection?.earlier.find(({ req }) => req === raw)
}
