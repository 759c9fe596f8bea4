// A Fastify instance as the plugin sees it, without a network: it boots, answers and closes in Fastify's and avvio's order
// (fastify.close(): requests get 503 from then on; preClose hooks one after the other, each with pluginTimeout; the server,
// once its last connection has gone; onClose hooks, last registered first). What it does is what was measured of the real
// one; the tests with real processes hold the two together.

import { EventEmitter } from 'node:events'
import { Server as HttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type Socket } from 'node:net'
import { type FastifyBaseLogger, type FastifyInstance } from 'fastify'
import { type Shutdown } from '../../types/index.js'
import { type ManualClock } from '../support/clock.js'

type Fn = (...args: any[]) => any

export const PLUGIN_TIMEOUT_MS = 10_000

/** A server that listens to nobody: clients connect by calling `connect()`. */
class SimulatedServer extends HttpServer {
  constructor () {
    super()
    // Node's own parser wants real sockets.
    this.removeAllListeners('connection')
    // listen() rejects with it.
    this.on('error', () => {})
  }

  override listen (): this {
    // What `listening` looks at, and what net.Server's own close() closes.
    Object.assign(this, { _handle: { close () {} } })
    return this
  }

  /** As net.Server counts its connections, so that its own close() knows when the last one has gone. */
  count (change: 1 | -1): void {
    const counted = this as unknown as { _connections: number, _emitCloseIfDrained: () => void }
    counted._connections += change
    if (change < 0) counted._emitCloseIfDrained()
  }
}

export class SimulatedSocket extends EventEmitter {
  readonly remoteAddress = '10.0.0.1'
  parser: object | null = {}
  destroyed = false
  readonly #onDestroy: () => void

  constructor (onDestroy: () => void) {
    super()
    this.#onDestroy = onDestroy
  }

  destroySoon (): void { this.destroy() }

  destroy (): void {
    if (this.destroyed) return
    this.destroyed = true
    this.#onDestroy()
    process.nextTick(() => { this.emit('close') })
  }
}

export class SimulatedResponse extends EventEmitter {
  readonly req: { socket: SimulatedSocket, method: string, url: string, httpVersionMajor: 1 }
  statusCode = 200
  headersSent = false
  writableEnded = false
  writableFinished = false
  chunkedEncoding = false
  shouldKeepAlive = true
  destroyed = false

  constructor (req: SimulatedResponse['req']) {
    super()
    this.req = req
  }

  /** The first bytes go out, of a response that may go on for ever. */
  begin (): void {
    this.headersSent = true
    this.chunkedEncoding = true
  }

  /** The last byte has been handed to the kernel. */
  finish (status = 200): void {
    if (this.destroyed) return
    Object.assign(this, { headersSent: true, writableEnded: true, writableFinished: true })
    this.statusCode = status
    this.#close()
    if (!this.shouldKeepAlive) this.req.socket.destroy()
  }

  /** Its connection is gone. */
  cut (): void {
    if (!this.destroyed) this.#close()
  }

  #close (): void {
    this.destroyed = true
    this.emit('close')
  }

  // What the health routes call.
  setHeader (): void {}
  removeHeader (): void {}
  writeHead (status: number): void {
    this.statusCode = status
    this.headersSent = true
  }

  end (): void { this.finish(this.statusCode) }
}

export type Respond = (request: { raw: IncomingMessage }, reply: { raw: ServerResponse, hijack: () => void }) => void

export class SimulatedFastify {
  readonly server = new SimulatedServer()
  readonly prefix = ''
  readonly initialConfig = { pluginTimeout: PLUGIN_TIMEOUT_MS }
  readonly log: FastifyBaseLogger
  readonly hooks: Record<string, Fn[]> = {}
  readonly routes = new Map<string, Respond>()
  readonly websocketServer = new EventEmitter()
  shutdown!: Shutdown
  /** Requests get 503 from here on. */
  isClosing = false
  readonly #clock: ManualClock
  readonly #booted: Promise<void>
  #boot!: () => void
  #closed: Promise<void> | undefined

  constructor (clock: ManualClock, log: FastifyBaseLogger) {
    this.#clock = clock
    this.log = log
    this.#booted = new Promise((resolve) => { this.#boot = resolve })
  }

  get asInstance (): FastifyInstance {
    return this as unknown as FastifyInstance
  }

  hasDecorator (): boolean { return false }
  decorate (name: string, value: unknown): void { Object.assign(this, { [name]: value }) }
  hasRoute (): boolean { return false }
  addresses (): object[] { return [] }
  printRoutes (): string { return 'GET /' }
  addHook (name: string, fn: Fn): void { (this.hooks[name] ??= []).push(fn) }
  async register (plugin: Fn): Promise<void> { await plugin({ addHook () {}, route: ({ url, handler }: { url: string, handler: Respond }) => { this.routes.set(url, handler) } }) }

  routing (req: IncomingMessage, res: ServerResponse): void {
    this.routes.get(req.url!)!({ raw: req }, { raw: res, hijack () {} })
  }

  async ready (): Promise<void> {
    try {
      for (const hook of this.hooks['onReady'] ?? []) await hook.call(this)
    } finally {
      this.#boot()
    }
  }

  async listen (): Promise<void> {
    this.server.listen()
    if (this.server.listening) for (const hook of this.hooks['onListen'] ?? []) await hook.call(this)
  }

  connect (socket: SimulatedSocket): void {
    this.server.count(1)
    socket.once('close', () => { this.server.count(-1) })
    this.server.emit('connection', socket as unknown as Socket)
  }

  get isCloseCalled (): boolean { return this.#closed !== undefined }

  close (): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close (): Promise<void> {
    await this.#booted
    let failure: { error: unknown } | undefined
    this.isClosing = true
    for (const hook of this.hooks['preClose'] ?? []) {
      try {
        await this.#limited(hook)
      } catch (error) {
        failure = { error }
        break
      }
    }
    // Also when it does not listen any more.
    await new Promise((resolve) => { this.server.close(resolve) })
    for (const hook of [...this.hooks['onClose'] ?? []].reverse()) {
      try {
        await hook.call(this, this)
      } catch (error) {
        failure = { error }
      }
    }
    if (failure !== undefined) throw failure.error
  }

  async #limited (hook: Fn): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const cancel = this.#clock.after(PLUGIN_TIMEOUT_MS, () => { reject(new Error('Plugin did not start in time')) })
      Promise.resolve().then(() => hook.call(this)).then(resolve, reject).finally(cancel)
    })
  }
}
