import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { Holder } from '../types/index.js'
import { type Clock } from './clock.js'
import { Pauses } from './deregistration/silence.js'

/** One turn of the event loop in which requests arrived. They share its time. */
interface Turn {
  /** The end of the turn, on the clock; `Infinity` until it has ended. */
  at: number
  /** Requests that arrived in it and are traffic. */
  traffic: number
  /** The time of the turn with traffic before this one. */
  previousAt: number | undefined
}

/** A request and its response, from the arrival until the response is flushed or the connection is gone. */
export interface Exchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly turn: Turn
  readonly connection: Connection
  /** Known when the application logs. */
  request: FastifyRequest | undefined
  isTraffic: boolean
}

/** What is known of a connection: the exchange it is busy with, and earlier ones if the client pipelines. */
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

  get isBusy (): boolean {
    return this.latest !== undefined || this.earlier.length > 0
  }

  exchanges (): Exchange[] {
    return this.latest === undefined ? this.earlier : [...this.earlier, this.latest]
  }

  find (res: ServerResponse): Exchange | undefined {
    return this.latest?.res === res ? this.latest : this.earlier.find((exchange) => exchange.res === res)
  }

  remove (exchange: Exchange): void {
    if (this.latest === exchange) this.latest = undefined
    else this.earlier = this.earlier.filter((other) => other !== exchange)
  }
}

export const kConnection = Symbol('fastify-fargate.connection')

type KnownSocket = Socket & { [kConnection]?: Connection }

/**
 * The requests of one Fastify instance: when the last one came and how long the pauses between them usually are; from
 * the stop signal on also which are in flight.
 *
 * Before the stop signal a request costs one small object and one listener that all responses share, and no clock
 * reading: the time is read once, at the end of a turn of the event loop in which requests arrived.
 */
export class Requests {
  readonly #clock: Clock
  readonly #connections: ReadonlySet<Connection>
  readonly #pauses = new Pauses()
  readonly #inFlight = new Set<Exchange>()
  #turn: Turn | undefined
  #lastArrivalAt: number | undefined
  #lastTurn: Turn | undefined
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
    let turn = this.#turn
    if (turn === undefined) {
      turn = this.#turn = { at: Infinity, traffic: 0, previousAt: undefined }
      this.#clock.endOfTurn(this.#endTurn)
    }
    turn.traffic++
    const exchange: Exchange = { req, res, turn, connection, request: undefined, isTraffic: true }
    if (connection.latest !== undefined) connection.earlier.push(connection.latest)
    connection.latest = exchange
    res.on('close', this.#ended)
    if (this.#drainingSince !== undefined) this.#follow(exchange)
  }

  /** 'close', not 'finish': only then have all bytes been handed to the kernel. Also comes when a client aborts. */
  readonly #ended: (this: ServerResponse) => void = this.#listener()

  /** One function for all responses, so that a request costs no closure. */
  #listener () {
    const requests = this
    return function ended (this: ServerResponse) {
      const connection = (this.req.socket as KnownSocket)[kConnection]!
      const exchange = connection.find(this)!
      connection.remove(exchange)
      if (requests.#drainingSince !== undefined) requests.#unfollow(exchange)
    }
  }

  readonly #endTurn = (): void => {
    const turn = this.#turn!
    this.#turn = undefined
    turn.at = this.#clock.now()
    if (turn.traffic === 0) return
    if (this.#lastArrivalAt !== undefined) this.#pauses.record(turn.at - this.#lastArrivalAt, turn.at)
    turn.previousAt = this.#lastArrivalAt
    this.#lastArrivalAt = turn.at
    this.#lastTurn = turn
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
    const { turn } = exchange
    turn.traffic--
    // Its turn may have ended already, behind an asynchronous hook of the application.
    if (turn.traffic === 0 && turn === this.#lastTurn) this.#lastArrivalAt = turn.previousAt
  }

  /** A request to the plugin's own routes. */
  probed (raw: IncomingMessage): void {
    this.#hasBeenProbed = true
    this.ignore(raw)
  }

  /** From here on every HTTP/1.1 response says `Connection: close`, and what is in flight is followed. */
  drain (): void {
    if (this.#drainingSince !== undefined) return
    this.#drainingSince = this.#clock.now()
    for (const connection of this.#connections) connection.exchanges().forEach(this.#follow, this)
  }

  #follow (exchange: Exchange): void {
    if (!exchange.res.headersSent) exchange.res.shouldKeepAlive = false
    this.#inFlight.add(exchange)
  }

  #unfollow (exchange: Exchange): void {
    this.#inFlight.delete(exchange)
    if (exchange.isTraffic) this.#lastEndAt = this.#clock.now()
    if (exchange.isTraffic && exchange.res.writableFinished && exchange.turn.at > this.#drainingSince!) this.#served++
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
    // Requests of the turn that is under way have arrived now.
    return this.#turn !== undefined && this.#turn.traffic > 0 ? this.#clock.now() : this.#lastArrivalAt
  }

  /** The pause between two requests that is usual here, in milliseconds; `undefined` when there were too few. */
  usualPause (floorMs: number): number | undefined {
    return this.#pauses.usual(floorMs)
  }

  /** When the last response of traffic ended since `drain()`, on the clock. */
  get lastEndAt (): number | undefined {
    return this.#lastEndAt
  }

  /** Everything in flight, oldest first. After `drain()`. */
  holders (): Holder[] {
    const now = this.#clock.now()
    return [...this.#inFlight].map(({ req, res, turn, request }) => {
      // Without the query string: it may carry what must not be logged.
      const path = (req.url ?? '').split('?', 1)[0]!
      return {
        kind: res.headersSent ? 'response' as const : 'request' as const,
        name: `${req.method} ${request?.routeOptions.url ?? path}`,
        ageMs: Math.max(0, Math.round(now - turn.at)),
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
