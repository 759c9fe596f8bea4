import type { IncomingMessage, Server } from 'node:http'
import { Server as NetServer } from 'node:net'
import type { FastifyInstance, FastifyPluginAsync, FastifyRequest } from 'fastify'
import type { FargateOptions, Shutdown, State } from '../types/index.js'
import { bootWarnings } from './bootchecks.js'
import { type Clock } from './clock.js'
import { resolveConfig } from './config.js'
import { type Coordinator } from './coordinator.js'
import { Countdown, newController } from './countdown.js'
import { FARGATE_ERR_ALREADY_REGISTERED, FARGATE_ERR_BAD_ARGUMENT, FARGATE_ERR_STOPPED_DURING_BOOT } from './errors.js'
import { Holders } from './holders.js'
import { Hooks } from './hooks.js'
import { type Host } from './host.js'
import { Lifecycle } from './lifecycle.js'
import { Pending } from './pending.js'
import { livenessAnswer, readinessAnswer, registerProbes } from './probes.js'
import { Readiness } from './readiness.js'
import { publishState } from './report.js'
import { Requests } from './requests.js'
import { CHECKED_STATES, selfCheck } from './selfcheck.js'
import { Sequence } from './sequence.js'
import { show } from './settings.js'
import { Sockets } from './sockets.js'
import { passStartup } from './startup.js'
import { computeTimeline } from './timeline.js'
import { Work } from './work.js'
import { WebSockets, type WebSocketServer } from './websockets.js'

export interface Surroundings {
  readonly clock: Clock
  readonly host: Host
  readonly coordinator: Coordinator
}

/** Wiring only: configuration -> parts -> decorator, hooks, routes. */
export function createPlugin (surroundings: () => Surroundings): FastifyPluginAsync<FargateOptions> {
  return async function fastifyFargate (fastify, options) {
    if (fastify.hasDecorator('shutdown')) throw new FARGATE_ERR_ALREADY_REGISTERED()
    const { clock, host, coordinator } = surroundings()
    const config = resolveConfig(options, host.env)
    const timeline = computeTimeline(config)
    const { log } = fastify

    const sockets = new Sockets(clock, timeline.goodbyeGrace)
    const requests = new Requests(clock, sockets.connections)
    sockets.onGone = (connection) => { requests.gone(connection) }
    requests.onEnd = ({ connection }) => { sockets.release(connection) }
    const countdown = new Countdown(clock, timeline)
    const lifecycle = new Lifecycle((from, to, reason) => { publishState({ fastify, from, to, reason }) })
    const fail = (where: string, error: unknown) => { sequence.fail(where, error) }
    const intake = newController()
    const closing = newController()
    const pending = new Pending(clock)
    const hooks = new Hooks(pending, fail)
    const work = new Work({ abortGraceMs: timeline.deadline - timeline.abort, clock, countdown, fail, intake: intake.signal, log, pending })
    const webSockets = new WebSockets(clock, timeline.goodbyeGrace)
    const holders = new Holders({ log, pending, requests, sockets, webSockets, work })
    const sequence: Sequence = new Sequence({
      clock, closing, config, countdown, fastify, holders, hooks, intake, leave: () => { leave() }, lifecycle, log, pending, requests, sockets, timeline, webSockets, work
    })
    const readiness = config.readiness && new Readiness(config.readiness, clock, log)
    const selfChecks = new WeakMap<IncomingMessage, State>()

    // What was there before the plugin is seen by no hook.
    requests.isServing = fastify.printRoutes() !== '(empty tree)'
    fastify.decorate('shutdown', decorator())
    sockets.track(fastify.server, requests.arrived)
    await registerProbes(fastify, {
      config, requests, readiness, selfChecks, state: () => lifecycle.state, remaining: () => countdown.remaining()
    })
    fastify.addHook('onRoute', (route) => {
      if (route.config?.shutdown?.traffic === false) route.onRequest = [ignoreRequest, ...[route.onRequest ?? []].flat()]
      else requests.isServing = true
    })
    // The one hook on every request, and only where somebody reads the log: route and request id for the deadline.
    if (isLogging(fastify)) fastify.addHook('onRequest', nameRequest)
    // @fastify/websocket decorates the instance that it is registered on, which may be a child.
    const instances = [fastify]
    fastify.addHook('onRegister', (instance) => { instances.push(instance) })
    fastify.addHook('onReady', finishBoot)
    fastify.addHook('onListen', async function listening () {
      for (const server of serversOf(fastify)) sockets.track(server, requests.arrived)
      warnAtBoot()
    })
    fastify.addHook('preClose', () => sequence.preClose())
    fastify.addHook('onClose', () => sequence.closed())

    const leave = coordinator.join({
      log,
      crash: config.crash,
      stopSignal: config.stopSignal,
      backstopMs: timeline.backstop,
      stop: (request) => sequence.run(request),
      hasten: (reason) => { sequence.hasten(reason) },
      fail,
      giveUp: (reason) => { sequence.giveUp(reason) }
    })

    function decorator (): Shutdown {
      return {
        get state () { return lifecycle.state },
        signal: intake.signal,
        closingSignal: closing.signal,
        abortSignal: countdown.abort,
        remaining: () => countdown.remaining(),
        begin (reason, { exit = false } = {}) {
          if (exit) coordinator.exit({ reason, waits: true })
          return sequence.run({ reason, waits: true })
        },
        addServer (server) {
          if (!speaksHttp(server)) throw new FARGATE_ERR_BAD_ARGUMENT('fastify.shutdown.addServer', 'a server of node:http, node:https or node:http2', show(server))
          sockets.track(server as Server, requests.arrived)
        },
        run: (name, fn, options) => work.run(name, fn, options),
        waitUntil: (name, promise, options) => { work.waitUntil(name, promise, options) },
        addWorker: (worker) => { work.addWorker(worker) },
        onDraining: (hook) => { hooks.add('onDraining', hook) },
        onClosing: (hook) => { hooks.add('onClosing', hook) }
      }
    }

    function ignoreRequest (request: FastifyRequest, _reply: unknown, done: () => void) {
      requests.ignore(request.raw)
      done()
    }

    function nameRequest (request: FastifyRequest, _reply: unknown, done: () => void) {
      requests.name(request)
      done()
    }

    async function finishBoot () {
      for (const { websocketServer } of instances as Array<{ websocketServer?: WebSocketServer }>) {
        if (websocketServer !== undefined) webSockets.track(websocketServer)
      }
      if (!lifecycle.isStopping) await checkProbes()
      logConfig()
      // Not awaited: liveness has to answer while a check is retried.
      void passStartup(config.startup, clock, log, intake.signal).then(() => {
        if (lifecycle.state === 'starting') lifecycle.move('ready', 'the service has started')
      })
      // A stop signal may come while the application is starting, or between ready() and listen(). fastify.close() waits
      // for the boot to end, so it ends as ever; but the service must not begin to listen.
      const { server } = fastify
      const listen = server.listen.bind(server) as (...args: unknown[]) => Server
      server.listen = (...args: unknown[]) => {
        if (!lifecycle.isStopping) return listen(...args)
        void refuse(server)
        return server
      }
    }

    /** An error before the exit would have the application's own code exit with 1 in the middle of a clean stop. */
    async function refuse (server: Server) {
      const { reason } = await sequence.run({ reason: '', waits: true })
      if (!coordinator.isExiting) server.emit('error', new FARGATE_ERR_STOPPED_DURING_BOOT(reason))
    }

    async function checkProbes () {
      if (config.readinessPath !== false) {
        for (const state of CHECKED_STATES) {
          await selfCheck(fastify, clock, fastify.prefix + config.readinessPath, readinessAnswer(state, true, 0), (raw) => { selfChecks.set(raw, state) })
        }
      }
      if (config.livenessPath !== false) await selfCheck(fastify, clock, fastify.prefix + config.livenessPath, livenessAnswer, () => {})
    }

    function logConfig () {
      const { sources, warnings, startup, readiness, ...values } = config
      log.info({ fargate: { ...values, deregistration: typeof values.deregistration === 'function' ? 'function' : values.deregistration, sources, timeline } },
        `fastify-fargate: stopTimeout ${config.stopTimeout} s (${sources.stopTimeout}), draining ends after ${timeline.drainLimit / 1000} s, deadline ${timeline.deadline / 1000} s`)
    }

    function warnAtBoot () {
      for (const warning of bootWarnings({
        config,
        addresses: fastify.addresses().map((bound) => typeof bound === 'string' ? bound : bound.address),
        keepAliveTimeoutMs: fastify.server.keepAliveTimeout,
        foreignListeners: coordinator.foreignListeners('SIGTERM'),
        initCommand: host.initCommand()
      })) log.warn(warning)
    }
  }
}

/** node:http and node:https have the one method, node:http2 has the other. */
function speaksHttp (server: unknown): boolean {
  return server instanceof NetServer && ('closeIdleConnections' in server || 'updateSettings' in server)
}

/** Fastify's null logger is one function for every level; any other logger has somebody who reads it. */
function isLogging ({ log }: FastifyInstance): boolean {
  return log.info !== log.trace
}

/**
 * All listeners of an instance. `localhost` may give it two, and Fastify shows the second one only under a symbol; where
 * that is gone there is still the first.
 */
function serversOf (fastify: FastifyInstance): Server[] {
  for (let object: object | null = fastify; object !== null; object = Object.getPrototypeOf(object) as object | null) {
    const symbol = Object.getOwnPropertySymbols(object).find(({ description }) => description === 'fastify.serverBindings')
    if (symbol !== undefined) return [fastify.server, ...(object as Record<symbol, Server[]>)[symbol]!]
  }
  return [fastify.server]
}
