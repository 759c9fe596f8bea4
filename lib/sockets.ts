import { Server as NetServer, type Socket } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import type { Server as HttpServer } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Holder } from '../types/index.js'
import { type Clock } from './clock.js'
import { Connection, kConnection } from './requests.js'

/** Sockets ended in one turn of the event loop: 10,000 at once would stall it for 200 ms. */
const BATCH = 250

type HttpSocket = Socket & { parser?: unknown }

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
  /** Connections whose TLS handshake is not done: Node has them in no list of its own. */
  readonly #handshaking = new Map<string, Socket>()
  #isReleasing = false
  /** Called when a connection has ended. */
  onGone: (connection: Connection) => void = () => {}

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** Follows the connections of a server. A second call for the same server does nothing. */
  track (server: HttpServer, onRequest: (...args: any[]) => void): void {
    if (this.#servers.has(server)) return
    this.#servers.add(server)
    // With TLS requests come on the socket that is made of the first one after the handshake.
    server.on('connection', server instanceof TlsServer ? this.#handshakes : this.#connected)
    server.on('secureConnection', this.#secured)
    server.on('session', this.#opened)
    // Before Fastify's own listener, which may answer at once.
    server.prependListener('request', onRequest)
  }

  readonly #connected = (socket: Socket): void => {
    const connection = new Connection(socket, this.#clock.now())
    Object.assign(socket, { [kConnection]: connection })
    this.connections.add(connection)
    socket.once('close', () => {
      this.connections.delete(connection)
      this.onGone(connection)
    })
  }

  readonly #handshakes = (socket: Socket): void => {
    const peer = peerOf(socket)
    this.#handshaking.set(peer, socket)
    socket.once('close', () => { this.#handshaking.delete(peer) })
  }

  readonly #secured = (socket: Socket): void => {
    this.#handshaking.delete(peerOf(socket))
    this.#connected(socket)
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
   * Ends every connection as soon as it has nothing in flight: now for the idle ones, with `release` for the others.
   * Half a request is nothing in flight.
   * @param takeOver also keeps `forceCloseConnections: true` from cutting what is in flight
   */
  releaseAll (takeOver: boolean): void {
    if (this.#isReleasing) return
    this.#isReleasing = true
    for (const server of this.#servers) {
      // fastify.close() calls these. The connections are ours from here on; what they end too early is ended right below.
      server.closeIdleConnections = () => {}
      if (takeOver) server.closeAllConnections = () => {}
    }
    // GOAWAY: streams in flight end, and then the session.
    for (const session of this.#sessions) session.close()
    // Two turns: what the kernel has received already is read first.
    this.#clock.endOfTurn(() => this.#clock.endOfTurn(() => {
      this.#releaseBatch([...this.connections], 0)
      this.#destroyHandshaking()
    }))
  }

  #releaseBatch (connections: readonly Connection[], from: number): void {
    const to = from + BATCH
    for (const connection of connections.slice(from, to)) this.release(connection)
    if (to < connections.length) this.#clock.endOfTurn(() => this.#releaseBatch(connections, to))
  }

  /** Ends a connection that has nothing in flight. Does nothing before `releaseAll()`. */
  release (connection: Connection): void {
    if (!this.#isReleasing || connection.isBusy) return
    // An upgraded socket (a WebSocket) belongs to whoever upgraded it: Node has taken its parser away.
    if ((connection.socket as HttpSocket).parser == null) return
    connection.socket.destroySoon()
  }

  /** What is still connected, oldest first. */
  holders (): Holder[] {
    const now = this.#clock.now()
    return [...this.connections].map(({ socket, since }) => ({
      kind: 'connection',
      name: 'a connection without a request',
      ageMs: Math.round(now - since),
      ...(socket.remoteAddress !== undefined && { remoteAddress: socket.remoteAddress })
    }))
  }

  /** Cuts everything off. */
  destroyAll (): void {
    for (const { socket } of this.connections) socket.destroy()
    this.#destroyHandshaking()
  }

  #destroyHandshaking (): void {
    for (const socket of this.#handshaking.values()) socket.destroy()
  }
}

/** What a TLS socket has in common with the socket it was made of. */
function peerOf ({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}
