// One run: the plugin in a process that only seems to be one, behind a load balancer, with clients, hooks and signals that
// follow a plan; and beside it the truth, which is kept apart from everything that the plugin counts.

import { EventEmitter } from 'node:events'
import { type IncomingMessage, type ServerResponse } from 'node:http'
import { type FastifyBaseLogger } from 'fastify'
import { type Clock } from '../../lib/clock.js'
import { resolveConfig, type Config } from '../../lib/config.js'
import { Coordinator } from '../../lib/coordinator.js'
import { createPlugin } from '../../lib/plugin.js'
import { computeTimeline, type Timeline } from '../../lib/timeline.js'
import { type FargateOptions, type ShutdownReport, type State, type StopContext } from '../../types/index.js'
import { ManualClock } from '../support/clock.js'
import { FakeHost } from '../support/host.js'
import { SimulatedFastify, SimulatedResponse, SimulatedSocket } from './fastify.js'
import { type Answer, type Plan, type PlannedHook, type PlannedWebSocket, type TriggerKind } from './plan.js'

/** The manual clock, and what the plugin has asked it for. */
class TrackedClock implements Clock {
  readonly #clock: ManualClock
  readonly pending = new Set<object>()

  constructor (clock: ManualClock) { this.#clock = clock }

  now = () => this.#clock.now()
  endOfTurn = (fn: () => void) => { this.#clock.endOfTurn(fn) }
  after = (ms: number, fn: () => void) => this.#track(fn, (tracked) => this.#clock.after(ms, tracked))
  inBackground = (ms: number, fn: () => void) => this.#track(fn, (tracked) => this.#clock.inBackground(ms, tracked))

  #track (fn: () => void, set: (fn: () => void) => () => void): () => void {
    const timer = {}
    this.pending.add(timer)
    const cancel = set(() => {
      this.pending.delete(timer)
      fn()
    })
    return () => {
      this.pending.delete(timer)
      cancel()
    }
  }
}

class SimulatedHost extends FakeHost {
  onExit: () => void = () => {}
  override exit (code: number): void {
    super.exit(code)
    this.onExit()
  }
}

/** A request that was handed to the service. */
export interface Accepted {
  path: string
  at: number
  answer: Answer
  isTraffic: boolean
  res: SimulatedResponse
  endedAt?: number
  /** Its client went away. */
  isAborted?: boolean
  /** The service closed its connection under it. */
  cutAt?: number
}

export interface WebSocketTruth {
  path: string
  told: Array<{ at: number, code: number, state: State }>
  answeredAt?: number
  cutAt?: number
}

export interface HookTruth {
  plan: PlannedHook
  startedAt: number
  state: State
  endedAt?: number
  hasFailed?: boolean
}

/** One Fastify instance, and the truth about it. */
export class Instance {
  readonly fastify: SimulatedFastify
  readonly accepted: Accepted[] = []
  readonly byResponse = new Map<SimulatedResponse, Accepted>()
  readonly webSockets: WebSocketTruth[] = []
  readonly hooks: HookTruth[] = []
  readonly jobs: PlannedHook[] = []
  workers = 0
  readonly moves: Array<{ at: number, from: State, to: State }> = []
  readonly reports: Array<{ at: number, report: ShutdownReport }> = []
  readonly probes: Array<{ at: number, status: number, isAfterSignal: boolean }> = []
  /** Traffic that found no listener, or was answered 503 by Fastify. */
  readonly refused: Array<{ at: number, state: State }> = []
  closeCalledAt: number | undefined
  preCloseAt: number | undefined
  /** Whether it was the application that called fastify.close() first. */
  isClosedByApplication = false
  closeSettledAt: number | undefined
  wasListeningAtStop = false
  inFlightAtStop = 0
  /** When the user's own strategy settled, and whether it resolved. */
  strategySettled: { at: number, isResolved: boolean } | undefined
  readonly pool: SimulatedSocket[] = []
  /** WebSocket clients that are connected. */
  readonly clients = new Set<{ close: (code: number) => void }>()

  constructor (fastify: SimulatedFastify) { this.fastify = fastify }

  get state (): State { return this.fastify.shutdown.state }
}

const LOG = Object.assign(Object.create(null), {
  trace () {}, debug () {}, info: () => {}, warn: () => {}, error: () => {}, fatal: () => {}
}) as FastifyBaseLogger

const ignore = () => {}

export class World {
  readonly plan: Plan
  readonly clock = new ManualClock()
  readonly tracked = new TrackedClock(this.clock)
  readonly host: SimulatedHost
  readonly config: Config
  readonly timeline: Timeline
  readonly instances: Instance[] = []
  /** What was sent, whether anybody listened, and which instances had ended their stop before. */
  readonly triggers: Array<{ at: number, kind: TriggerKind, wasHeard: boolean, ended: Instance[] }> = []
  readonly #coordinator: Coordinator
  #requests = 0
  /** Requests without an answer on each connection. */
  readonly #open = new Map<SimulatedSocket, Set<Accepted>>()
  exitedAt: number | undefined
  firstTriggerAt = 0

  constructor (plan: Plan) {
    this.plan = plan
    this.host = new SimulatedHost(this.clock, { env: plan.env })
    this.host.onExit = () => { this.exitedAt ??= this.clock.now() }
    this.#coordinator = new Coordinator(this.host, this.tracked)
    this.config = resolveConfig({ ...(plan.strategy !== 'function' && { deregistration: plan.strategy }) }, plan.env)
    this.timeline = computeTimeline(this.config)
  }

  get isOver (): boolean { return this.exitedAt !== undefined || this.triggers.some(({ wasHeard }) => !wasHeard) }

  at (ms: number, fn: () => void): void {
    this.clock.after(Math.max(0, ms - this.clock.now()), () => { if (!this.isOver) fn() })
  }

  async run (): Promise<void> {
    const { plan, clock } = this
    const main = await this.#create(plan.hooks)
    if (plan.other !== undefined) await this.#create(plan.other)

    const startedAt = clock.now()
    const readyAt = startedAt + plan.boot.pluginsMs
    const listeningAt = readyAt + plan.boot.listenMs
    // A startup check is tried again after 0.5, 1 and 2 s.
    const servesAt = listeningAt + 500 * (2 ** plan.boot.startupFailures - 1) + 1
    this.firstTriggerAt = plan.boot.isInterrupted
      ? startedAt + Math.floor((plan.boot.pluginsMs + plan.boot.listenMs) / 2)
      : servesAt + plan.before.count * plan.before.everyMs + plan.before.silenceMs

    for (const { fastify } of this.instances) {
      this.at(readyAt, () => {
        void fastify.ready().then(() => {
          this.at(listeningAt, () => { void fastify.listen() })
        })
      })
    }
    // Between two milliseconds, so that nothing ends at the very instant of a trigger.
    for (const instance of this.instances) this.at(this.firstTriggerAt - 2.5, () => { for (const job of instance.jobs) this.#begin(instance, job) })
    let at = this.firstTriggerAt
    plan.triggers.forEach(({ afterMs, kind }, index) => {
      if (index > 0) at += afterMs
      this.at(at, () => { this.#trigger(kind, main) })
    })
    if (!plan.boot.isInterrupted) this.#planTraffic(main, servesAt)

    await clock.advance((plan.boot.isInterrupted ? this.firstTriggerAt : servesAt) - startedAt)
    // Nothing that waits for a promise happens before the first trigger.
    if (this.firstTriggerAt - 1 > clock.now()) clock.skip(this.firstTriggerAt - 1 - clock.now())
    const until = at + this.timeline.stopTimeout + 45_000
    while (!this.isOver && clock.now() < until) {
      const [due] = clock.dueInMs
      if (due === undefined || clock.now() + due > until) break
      await clock.advance(Math.max(0, due))
    }
    await clock.settle()
  }

  async #create (hooks: PlannedHook[]): Promise<Instance> {
    const { plan, clock } = this
    const fastify = new SimulatedFastify(clock, LOG)
    if (plan.forceCloseConnections) Object.assign(fastify.initialConfig, { forceCloseConnections: true })
    const instance = new Instance(fastify)
    this.instances.push(instance)
    let failures = plan.boot.startupFailures
    const options: FargateOptions = {
      deregistration: plan.strategy === 'function' ? this.#strategy(instance) : plan.strategy,
      startup: [{ name: 'check', check: () => { if (failures-- > 0) throw new Error('not yet') } }]
    }
    fastify.addHook('preClose', async () => { instance.preCloseAt ??= clock.now() })
    const plugin = createPlugin(() => ({ clock: this.tracked, host: this.host, coordinator: this.#coordinator }))
    await plugin.call(fastify.asInstance, fastify.asInstance, options)
    fastify.shutdown.signal.addEventListener('abort', () => {
      instance.wasListeningAtStop = fastify.server.listening
      instance.inFlightAtStop = instance.accepted.filter(({ res }) => !res.destroyed).length
    })
    fastify.server.on('request', (req, res) => { this.#handle(instance, req as never, res as never) })
    // As @fastify/websocket does it.
    fastify.addHook('preClose', async () => {
      for (const client of [...instance.clients]) client.close(1005)
    })
    for (const hook of hooks) {
      const call = (context?: StopContext) => this.#runHook(instance, hook, context)
      if (hook.kind === 'onDraining' || hook.kind === 'onClosing') fastify.shutdown[hook.kind](call)
      else if (hook.kind === 'worker') {
        instance.workers++
        fastify.shutdown.addWorker({ name: 'worker', stop: call })
      } else if (hook.kind === 'run' || hook.kind === 'waitUntil') instance.jobs.push(hook)
      else fastify.addHook(hook.kind, async () => { await call() })
    }
    return instance
  }

  #strategy (instance: Instance): Extract<FargateOptions['deregistration'], Function> {
    const { functionBehaviour, functionMs } = this.plan
    return async () => {
      if (functionBehaviour === 'throws') {
        instance.strategySettled = { at: this.clock.now(), isResolved: false }
        throw new Error('strategy')
      }
      await new Promise<void>((resolve) => { if (functionBehaviour !== 'hangs') this.at(this.clock.now() + functionMs, resolve) })
      instance.strategySettled = { at: this.clock.now(), isResolved: functionBehaviour === 'resolves' }
      if (functionBehaviour === 'rejects') throw new Error('strategy')
      return 'mine'
    }
  }

  #begin (instance: Instance, plan: PlannedHook): void {
    const { shutdown } = instance.fastify
    if (plan.kind === 'run') shutdown.run('job', ({ abortSignal, remaining }) => this.#runHook(instance, plan, { reason: '', remaining, signal: abortSignal })).catch(ignore)
    else shutdown.waitUntil('promise', this.#runHook(instance, plan, { reason: '', remaining: shutdown.remaining, signal: shutdown.abortSignal }))
  }

  async #runHook (instance: Instance, plan: PlannedHook, context?: StopContext): Promise<void> {
    const truth: HookTruth = { plan, startedAt: this.clock.now(), state: instance.state }
    instance.hooks.push(truth)
    const end = (hasFailed: boolean) => {
      truth.endedAt = this.clock.now()
      truth.hasFailed = hasFailed
    }
    if (plan.behaviour === 'throws') {
      end(true)
      throw new Error('hook')
    }
    await new Promise<void>((resolve) => {
      const isJob = plan.kind === 'run' || plan.kind === 'waitUntil'
      if (plan.behaviour !== 'hangs') this.at(this.clock.now() + plan.ms + (isJob ? 0.25 : 0), resolve)
      if (!plan.isCooperative) return
      if (context?.signal.aborted === true) resolve()
      else context?.signal.addEventListener('abort', () => { resolve() })
    })
    end(plan.behaviour === 'rejects')
    if (plan.behaviour === 'rejects') throw new Error('hook')
  }

  #planTraffic (main: Instance, servesAt: number): void {
    const { before, nodes, requests, probesAtMs, webSockets } = this.plan
    const quick = { answer: 'answers' as const, durationMs: 1, isReused: true, abortsAfterMs: undefined, isScraper: false }
    const sendBefore = (left: number) => {
      if (left === 0) return
      this.#send(main, quick)
      this.at(this.clock.now() + before.everyMs, () => { sendBefore(left - 1) })
    }
    this.at(servesAt, () => { sendBefore(before.count) })
    for (const { learnsAfterMs, everyMs } of nodes) {
      const send = () => {
        if (this.clock.now() >= this.firstTriggerAt + learnsAfterMs) return
        this.#send(main, quick)
        this.at(this.clock.now() + everyMs, send)
      }
      this.at(Math.max(servesAt, this.firstTriggerAt - 1000), send)
    }
    for (const request of requests) {
      const at = this.firstTriggerAt + request.atMs
      if (at >= servesAt) this.at(at, () => { this.#send(main, request) })
    }
    for (const webSocket of webSockets) {
      const at = this.firstTriggerAt + webSocket.atMs
      if (at >= servesAt) this.at(at, () => { this.#webSocket(main, webSocket) })
    }
    for (const atMs of probesAtMs) {
      const at = this.firstTriggerAt + atMs
      if (at >= servesAt) this.at(at, () => { this.#probe(main) })
    }
  }

  #trigger (kind: TriggerKind, main: Instance): void {
    const { host, clock } = this
    const isEvent = kind !== 'begin' && kind !== 'begin and exit' && kind !== 'fastify.close()'
    const wasHeard = !isEvent || host.listeners(kind).length > 0
    this.triggers.push({ at: clock.now(), kind, wasHeard, ended: this.instances.filter(({ reports }) => reports.length > 0) })
    if (isEvent) host.emit(kind, new Error('nobody caught this'))
    else if (kind === 'fastify.close()') {
      main.closeCalledAt ??= clock.now()
      main.isClosedByApplication ||= !main.fastify.isCloseCalled
      void main.fastify.close().catch(ignore).then(() => { main.closeSettledAt ??= clock.now() })
    } else void main.fastify.shutdown.begin(kind, { exit: kind === 'begin and exit' })
    if (!this.isOver) this.#probe(main)
  }

  /** The load balancer asks the readiness route. */
  #probe (instance: Instance): void {
    const { fastify } = instance
    if (!fastify.server.listening || fastify.isClosing) return
    const socket = this.#connect(instance)
    const res = new SimulatedResponse({ socket, method: 'GET', url: '/health/ready', httpVersionMajor: 1 })
    const accepted: Accepted = { path: '/health/ready', at: this.clock.now(), answer: 'answers', isTraffic: false, res }
    this.#follow(instance, socket, accepted)
    fastify.server.emit('request', res.req as unknown as IncomingMessage, res as unknown as ServerResponse)
    const isAfterSignal = this.triggers.some(({ kind, wasHeard }) => (kind === 'SIGTERM' || kind === 'SIGINT') && wasHeard)
    instance.probes.push({ at: this.clock.now(), status: res.statusCode, isAfterSignal })
    socket.destroy()
  }

  #connect (instance: Instance): SimulatedSocket {
    const open = new Set<Accepted>()
    const socket: SimulatedSocket = new SimulatedSocket(() => {
      const cut = [...open]
      for (const one of cut) if (one.isAborted !== true) one.cutAt ??= this.clock.now()
      process.nextTick(() => { for (const { res } of cut) res.cut() })
    })
    this.#open.set(socket, open)
    instance.fastify.connect(socket)
    return socket
  }

  #send (instance: Instance, { answer, durationMs, isReused, abortsAfterMs, isScraper }: Omit<Plan['requests'][number], 'atMs'>): void {
    const { fastify } = instance
    const { server } = fastify
    const now = this.clock.now()
    let socket = isReused ? instance.pool.find((one) => !one.destroyed && this.#open.get(one)!.size === 0) : undefined
    if (socket === undefined) {
      if (!server.listening) {
        instance.refused.push({ at: now, state: instance.state })
        return
      }
      socket = this.#connect(instance)
      if (isReused) instance.pool.push(socket)
    }
    const path = `/r/${++this.#requests}`
    const res = new SimulatedResponse({ socket, method: 'GET', url: path, httpVersionMajor: 1 })
    const accepted: Accepted = { path, at: now, answer, isTraffic: !isScraper, res }
    this.#follow(instance, socket, accepted)
    Object.assign(res, { durationMs, isScraper })
    server.emit('request', res.req as unknown as IncomingMessage, res as unknown as ServerResponse)
    if (abortsAfterMs === undefined) return
    this.at(now + abortsAfterMs, () => {
      if (res.destroyed) return
      accepted.isAborted = true
      socket.destroy()
    })
  }

  #follow (instance: Instance, socket: SimulatedSocket, accepted: Accepted): void {
    const { res } = accepted
    instance.accepted.push(accepted)
    const open = this.#open.get(socket)!
    open.add(accepted)
    instance.byResponse.set(res, accepted)
    res.once('close', () => { open.delete(accepted) })
    res.once('close', () => { if (res.writableFinished) accepted.endedAt = this.clock.now() })
    if (!instance.pool.includes(socket)) res.once('close', () => { if (res.writableFinished) socket.destroy() })
  }

  /** Fastify, and behind it the application. */
  #handle (instance: Instance, req: SimulatedResponse['req'], res: SimulatedResponse & { durationMs: number, isScraper: boolean }): void {
    const { fastify } = instance
    const now = this.clock.now()
    const accepted = instance.byResponse.get(res)!
    if (fastify.isClosing) {
      instance.refused.push({ at: now, state: instance.state })
      res.shouldKeepAlive = false
      res.finish(503)
      return
    }
    if (req.url.startsWith('/health')) {
      fastify.routing(req as unknown as IncomingMessage, res as unknown as ServerResponse)
      return
    }
    const request = { raw: req, id: req.url, routeOptions: { url: req.url } }
    const route: { config?: object, onRequest?: Function[] } = res.isScraper ? { config: { shutdown: { traffic: false } } } : {}
    for (const hook of fastify.hooks['onRoute']!) hook(route)
    for (const hook of [...fastify.hooks['onRequest'] ?? [], ...route.onRequest ?? []]) hook(request, {}, ignore)
    const finish = () => { res.finish() }
    switch (accepted.answer) {
      case 'answers':
        this.at(now + res.durationMs, finish)
        break
      case 'never answers':
        break
      case 'begins, and ends':
        res.begin()
        this.at(now + res.durationMs, finish)
        break
      case 'streams for ever':
        res.begin()
        break
      case 'streams, and ends when closing begins': {
        res.begin()
        const { closingSignal } = fastify.shutdown
        if (closingSignal.aborted) finish()
        else closingSignal.addEventListener('abort', finish)
      }
    }
  }

  #webSocket (instance: Instance, { answersAfterMs }: PlannedWebSocket): void {
    if (!instance.fastify.server.listening || instance.fastify.isClosing) return
    const path = `/ws/${instance.webSockets.length}`
    const truth: WebSocketTruth = { path, told: [] }
    instance.webSockets.push(truth)
    const socket = new SimulatedSocket(() => {
      if (truth.answeredAt === undefined) truth.cutAt ??= this.clock.now()
    })
    instance.fastify.connect(socket)
    socket.parser = null
    const client = Object.assign(new EventEmitter(), {
      close: (code: number) => {
        truth.told.push({ at: this.clock.now(), code, state: instance.state })
        if (truth.told.length > 1 || answersAfterMs === undefined) return
        this.at(this.clock.now() + answersAfterMs, () => {
          if (socket.destroyed) return
          truth.answeredAt = this.clock.now()
          socket.destroy()
        })
      },
      terminate: () => { socket.destroy() }
    })
    instance.clients.add(client)
    socket.once('close', () => {
      instance.clients.delete(client)
      client.emit('close')
    })
    instance.fastify.websocketServer.emit('connection', client, { url: path, socket })
  }
}
