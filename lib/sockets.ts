import { Server as NetServer, type Socket } from 'node:net'
import { Server as TlsServer, type TLSSocket } from 'node:tls'
import { Server as HttpServer } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Holder } from '../types/index.js'
import { type Clock } from './clock.js'
import { Connection, kConnection, type HttpSocket } from './exchange.js'

/** Sockets ended in one turn of the event loop: 10,000 at once would stall it for 200 ms. */
const BATCH = 250

/**
 * The connections of one Fastify instance, and what is done with them when.
 *
 * While traffic may still come no socket is ended here: that would race with a request on the wire. Once draining has
 * ended a connection goes the moment its last response is flushed.
 */
export class Sockets {
  readonly connections = new Set<Connection>()
  readonly #clock: Clock
  readonly #servers = new Set<HttpServer>()
  readonly #sessions = new Set<ServerHttp2Session>()
  readonly #goodbyeGraceMs: number
  /** Connections whose TLS handshake is not done: Node has them in no list of its own. */
  readonly #handshaking = new Set<Socket>()
  #wake: Array<() => void> = []
  #released: Promise<void> | undefined
  /** Whether idle connections go now, and busy ones as soon as they are idle. */
  #isReleasing = false
  /** Called when a connection has ended. */
  onGone: (connection: Connection) => void = () => {}

  /** @param goodbyeGraceMs how long a client of HTTP/2 has to hang up after its GOAWAY */
  constructor (clock: Clock, goodbyeGraceMs: number) {
    this.#clock = clock
    this.#goodbyeGraceMs = goodbyeGraceMs
  }

  /** Follows the connections of a server. A second call for the same server does nothing. */
  track (server: HttpServer, onRequest: (...args: any[]) => void): void {
    if (this.#servers.has(server)) return
    this.#servers.add(server)
    // With TLS requests come on the socket that is made of the first one after the handshake, which agrees on the protocol
    // too. Without TLS a server has one protocol.
    const isHttp2 = !(server instanceof HttpServer)
    server.on('connection', server instanceof TlsServer ? this.#handshakes : (socket: Socket) => { this.#connected(socket, isHttp2) })
    server.on('secureConnection', this.#secured)
    server.on('session', this.#opened)
    // Before Fastify's own listener, which may answer at once.
    server.prependListener('request', onRequest)
  }

  #connected (socket: Socket, isHttp2: boolean): void {
    const connection = new Connection(socket, this.#clock.now(), isHttp2)
    Object.assign(socket, { [kConnection]: connection })
    this.connections.add(connection)
    socket.once('close', () => {
      this.connections.delete(connection)
      this.onGone(connection)
      const wake = this.#wake
      this.#wake = []
      for (const resolve of wake) resolve()
    })
  }

  readonly #handshakes = (socket: Socket): void => {
    this.#handshaking.add(socket)
    socket.once('close', () => { this.#handshaking.delete(socket) })
  }

  readonly #secured = (socket: TLSSocket & { _parent?: Socket | null }): void => {
    // Nothing public leads from one to the other. Where this is gone, too, no handshake is known rather than a wrong one.
    if (socket._parent == null) this.#handshaking.clear()
    else this.#handshaking.delete(socket._parent)
    this.#connected(socket, socket.alpnProtocol === 'h2')
  }

  readonly #opened = (session: ServerHttp2Session): void => {
    this.#sessions.add(session)
    session.once('close', () => { this.#sessions.delete(session) })
  }

  get isListening (): boolean {
    for (const server of this.#servers) if (server.listening) return true
    return false
  }

  /**
   * Stops accepting on every listener, and only that: `http.Server`'s own `close()` would also end connections whose
   * response is not flushed yet, or whose next request has not been read yet.
   */
  stopAccepting (): void {
    for (const server of this.#servers) {
      if (server.listening) NetServer.prototype.close.call(server)
    }
  }

  /**
   * Ends every connection as soon as it has nothing in flight: the idle ones in two turns of the event loop, since what
   * the kernel has received already is read first, and `release` ends the others. Half a request is nothing in flight.
   * Resolves after the two turns.
   * @param takeOver also keeps `forceCloseConnections: true` from cutting what is in flight
   */
  releaseAll (takeOver: boolean): Promise<void> {
    this.#released ??= this.#releaseAll(takeOver)
    return this.#released
  }

  async #releaseAll (takeOver: boolean): Promise<void> {
    for (const server of this.#servers) {
      // fastify.close() calls these. The connections are ours from here on; what they end too early is ended right below.
      server.closeIdleConnections = () => {}
      if (takeOver) server.closeAllConnections = () => {}
      // It waits for the first listener only (`localhost` has two), and then runs the onClose hooks.
      const close = server.close.bind(server)
      server.close = (callback) => close((error) => { void this.#untilGone().then(() => callback?.(error)) })
    }
    await this.#endOfTurn()
    await this.#endOfTurn()
    this.#isReleasing = true
    // GOAWAY: streams in flight end, and then the session.
    for (const session of this.#sessions) session.close()
    for (const connection of this.connections) if (connection.isHttp2) this.#seeOff(connection)
    this.#releaseBatch([...this.connections], 0)
    this.#destroyHandshaking()
  }

  /**
   * A session ends with a FIN, and Node waits for the one of the client. Not cut at once: a client that still reads sends
   * window updates, and a socket that is gone would answer them with a reset, which costs the client the rest.
   */
  #seeOff ({ socket }: Connection): void {
    socket.once('finish', () => {
      const cancel = this.#clock.after(this.#goodbyeGraceMs, () => { socket.destroy() })
      socket.once('close', cancel)
    })
  }

  async #untilGone (): Promise<void> {
    while (this.connections.size > 0) await new Promise<void>((resolve) => { this.#wake.push(resolve) })
  }

  #endOfTurn (): Promise<void> {
    return new Promise((resolve) => { this.#clock.endOfTurn(resolve) })
  }

  #releaseBatch (connections: readonly Connection[], from: number): void {
    const to = from + BATCH
    for (const connection of connections.slice(from, to)) this.release(connection)
    if (to < connections.length) this.#clock.endOfTurn(() => this.#releaseBatch(connections, to))
  }

  /** Ends a connection that has nothing in flight. Does nothing before `releaseAll()`. */
  release (connection: Connection): void {
    if (!this.#isReleasing || connection.isBusy) return
    // An upgraded one (a WebSocket) belongs to whoever upgraded it, and with HTTP/2 the session ends it.
    if (connection.isHttp2 || isUpgraded(connection)) return
    connection.socket.destroySoon()
  }

  /** Cuts the connections that were upgraded and are still there, and tells which, oldest first. */
  cutUpgraded (): Holder[] {
    const upgraded = [...this.connections].filter(isUpgraded)
    const holders = upgraded.map((connection) => this.#holder(connection, 'an upgraded connection'))
    for (const { socket } of upgraded) socket.destroy()
    return holders
  }

  /** What is still connected, oldest first. */
  holders (): Holder[] {
    return [...this.connections].map((connection) => this.#holder(connection, 'a connection without a request'))
  }

  #holder ({ socket, since }: Connection, name: string): Holder {
    return {
      kind: 'connection',
      name,
      ageMs: Math.round(this.#clock.now() - since),
      ...(socket.remoteAddress !== undefined && { remoteAddress: socket.remoteAddress })
    }
  }

  /** Cuts everything off. */
  destroyAll (): void {
    for (const { socket } of this.connections) socket.destroy()
    this.#destroyHandshaking()
  }

  #destroyHandshaking (): void {
    for (const socket of this.#handshaking) socket.destroy()
  }
}

/** Node takes the parser away from a connection that is upgraded. */
function isUpgraded ({ hadParser, socket }: Connection): boolean {
  return hadParser && !socket.destroyed && (socket as HttpSocket).parser == null
}
