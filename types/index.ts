/**
 * The public contract of fastify-fargate: what goes in (options), what can be watched (states, the decorator) and what
 * comes out (the shutdown report). Types only; the code is in lib/.
 */
import type { Server as HttpServer } from 'node:http'
import type { Http2SecureServer, Http2Server } from 'node:http2'
import type { Server as HttpsServer } from 'node:https'
import type { FastifyInstance } from 'fastify'

/**
 * Where the service is in its life. One value, moved in one place, never backwards.
 *
 * - `starting`: booting, or a startup check has not succeeded yet. Readiness 503.
 * - `ready`: serving. Readiness 200.
 * - `draining`: the stop signal has come. Readiness 503, **every route still answers**, nothing new is taken in by
 *   background workers.
 * - `closing`: no more requests are expected. The ones in flight end, then `fastify.close()` runs.
 * - `closed`: `fastify.close()` has returned.
 */
export type State = 'starting' | 'ready' | 'draining' | 'closing' | 'closed'

/**
 * How the plugin finds out that the load balancer has let go of the task.
 *
 * - `traffic`: silence, in proportion to the traffic before it. No AWS call.
 * - `delay`: the whole `deregistrationDelay`, always.
 * - `none`: no wait at all (nothing routes here: a worker, a service without a load balancer).
 */
export type DeregistrationStrategy = 'traffic' | 'delay' | 'none'

/**
 * Your own answer to "has the load balancer let go?". Resolves with the reason, which is logged. `signal` is aborted
 * when draining ends for another reason (the drain limit, a second stop signal). When it rejects, the error is logged
 * and `traffic` takes over.
 */
export type DeregistrationFunction = (context: DeregistrationContext, signal: AbortSignal) => Promise<string>

/** What a {@link DeregistrationFunction} is told. All times in milliseconds. */
export interface DeregistrationContext {
  /** What began the stop: `SIGTERM`, the reason given to `begin()`, ... */
  readonly reason: string
  /** `min(deregistrationDelay, drainLimit)`, counted from the stop signal. */
  readonly drainEndMs: number
  /** Draining ends here whatever comes, counted from the stop signal. */
  readonly drainLimitMs: number
  /** Since the stop signal. */
  elapsedMs (): number
  /** Since the last request that was no probe; `undefined` when there was none. */
  silenceMs (): number | undefined
  /** Requests whose response has not begun. */
  inFlight (): number
}

/**
 * What an error that nobody caught does to a service that is `ready`.
 *
 * - `close`: ends what is in flight, within the budget, then exit code 1.
 * - `drain`: the same, and waits for the load balancer first.
 * - `exit`: ends the process at once with exit code 1.
 */
export type CrashPolicy = 'close' | 'drain' | 'exit'

/**
 * When WebSocket clients are told to go (close code 1001).
 *
 * - `closing`: once the load balancer has let go, before the server closes.
 * - `draining`: right after the stop signal. Clients that come back while draining are served, and told once more.
 * - `none`: not by this plugin: an application that says goodbye in its own way, in an `onClosing` hook.
 */
export type WebsocketClose = 'closing' | 'draining' | 'none'

/** A check that has to succeed once before the service becomes ready. */
export interface StartupCheck {
  /** Appears in the log while the check fails. */
  name: string
  /** Succeeds by returning or resolving; fails by throwing or rejecting. `signal` is aborted at the time limit. */
  check: (signal: AbortSignal) => unknown
  /**
   * Seconds for one attempt.
   * @default 5
   */
  timeout?: number
}

/** An opt-in check behind the readiness route. Read "Readiness and your database" in the README before you use it. */
export interface ReadinessCheck {
  /** Fails by throwing, rejecting or returning `false`. `signal` is aborted at the time limit. */
  check: (signal: AbortSignal) => unknown
  /**
   * Seconds for one check; a check that takes longer has failed.
   * @default 2
   */
  timeout?: number
  /**
   * Seconds for which a result is reused.
   * @default 5
   */
  cache?: number
  /**
   * Checks in a row that have to fail before the route says 503.
   * @default 3
   */
  failures?: number
  /**
   * Checks in a row that have to succeed before the route says 200 again.
   * @default 2
   */
  successes?: number
}

/** A duration in seconds, or a string with a unit: `30`, `"30"`, `"30s"`, `"1500ms"`, `"2m"`. */
export type Duration = number | string

/**
 * The options of `fastify.register(fargate, options)`. An environment variable of the same meaning wins over the
 * option, since it stands beside `stopTimeout` in the task definition.
 */
export interface FargateOptions {
  /**
   * `stopTimeout` of the container definition: from the stop signal to SIGKILL. 2-120 s on Fargate; up to 3600
   * elsewhere. Env `FARGATE_STOP_TIMEOUT`.
   * @default 30
   */
  stopTimeout?: Duration
  /**
   * How long after the stop signal the load balancer may still route here: the deregistration delay of the target
   * group, 0-3600 s. Capped by the drain limit. Env `FARGATE_DEREGISTRATION_DELAY`.
   * @default 20
   */
  deregistrationDelay?: Duration
  /**
   * How to find out that the load balancer has let go. Env `FARGATE_DEREGISTRATION`.
   * @default 'traffic'
   */
  deregistration?: DeregistrationStrategy | DeregistrationFunction
  /**
   * Silence shorter than this is never evidence, 0-120 s. Env `FARGATE_QUIET`.
   * @default 3
   */
  quiet?: Duration
  /**
   * Kept between the deadline and SIGKILL, 0.1-60 s. Env `FARGATE_MARGIN`.
   * @default stopTimeout / 15, within 0.5-2
   */
  margin?: Duration
  /**
   * Kept for closing: draining ends this long before the deadline, 0.1-3600 s. Env `FARGATE_CLOSE_RESERVE`.
   * @default 2/7 of the deadline
   */
  closeReserve?: Duration
  /**
   * `abortSignal` fires this long before the deadline, 0.05-600 s. Env `FARGATE_ABORT_GRACE`.
   * @default a tenth of the deadline, within 0.25-3
   */
  abortGrace?: Duration
  /**
   * The route the target group's health check asks, or `false` for none. Env `FARGATE_READINESS_PATH`.
   * @default '/health/ready'
   */
  readinessPath?: string | false
  /**
   * The route a container health check may ask, or `false` for none. Env `FARGATE_LIVENESS_PATH`.
   * @default '/health/live'
   */
  livenessPath?: string | false
  /**
   * When WebSocket clients are told to go. Env `FARGATE_WEBSOCKET_CLOSE`.
   * @default 'closing'
   */
  websocketClose?: WebsocketClose
  /**
   * The time over which WebSocket clients are told to go, evenly, so that they do not all reconnect at the same
   * instant, 0-120 s. Cut short by the abort mark. Env `FARGATE_WEBSOCKET_PACE`.
   * @default 0
   */
  websocketPace?: Duration
  /**
   * What an uncaught error does while the service is ready. Env `FARGATE_CRASH`.
   * @default 'close'
   */
  crash?: CrashPolicy
  /**
   * The stop signal of the image (`STOPSIGNAL`), beside SIGTERM, which is always handled. Env `FARGATE_STOP_SIGNAL`.
   * @default 'SIGTERM'
   */
  stopSignal?: StopSignal
  /** Checks that have to succeed once before the service becomes ready. They are retried. Code only. */
  startup?: ReadonlyArray<StartupCheck>
  /** A check behind the readiness route. Code only. */
  readiness?: ReadinessCheck | ReadinessCheck['check']
}

/** Signals that can be an image's STOPSIGNAL. SIGINT is one that waits for the load balancer only if it is named here. */
export type StopSignal = 'SIGTERM' | 'SIGINT' | 'SIGQUIT' | 'SIGHUP' | 'SIGUSR2'

/** Whatever keeps the process from ending. Every holder has a name. */
export interface Holder {
  /**
   * `request`: not answered. `response`: whole, but not all bytes are out. `stream`: begun, and may go on for ever.
   * `websocket`: a client that did not answer its close frame. `connection`: one that was upgraded by hand, or has no
   * request. `hook`: onDraining, onClosing, preClose or onClose. `job`: of `run()` or `waitUntil()`. `worker`: of `addWorker()`.
   */
  kind: 'request' | 'response' | 'stream' | 'websocket' | 'connection' | 'hook' | 'job' | 'worker'
  /** `GET /reports/:id`, `onClosing hook flushMetrics`, `job nightly`, `worker orders, 3 active`, ... */
  name: string
  /** Milliseconds. For a hook, since it was called; for a worker, since it was told to stop. */
  ageMs: number
  /** Path without the query string. */
  path?: string
  /** Fastify's request id. Known when the application logs. */
  requestId?: string
  remoteAddress?: string
}

/** An error that made the exit code 1. */
export interface StopError {
  /** Where it happened: `onClosing hook x`, `fastify.close()`, `uncaughtException`, ... */
  where: string
  message: string
  code?: string
}

/** What a stop did: one JSON record, the last line of the log. All times in milliseconds. */
export interface ShutdownReport {
  /** `SIGTERM`, `SIGINT`, `uncaughtException`, `unhandledRejection`, `fastify.close()`, or the reason given to `begin()`. */
  reason: string
  /** 0: everything ended. 1: something was lost, cut or failed; `cut` and `errors` name it. */
  exitCode: 0 | 1
  /**
   * Which came first. `signal-first`: requests still came after the stop signal. `deregistered-first`: the silence
   * that ended draining had begun before the signal. `unknown`: too little traffic to tell, or no wait was wanted.
   */
  order: 'signal-first' | 'deregistered-first' | 'unknown'
  /** Why draining ended. */
  drainEnded: string
  durations: {
    /** From the stop signal to the end of draining. */
    drainingMs: number
    /** Until the requests in flight, the jobs, the workers and the hooks had ended. */
    closingMs: number
    /** `fastify.close()`: preClose and onClose hooks. */
    closeMs: number
    totalMs: number
  }
  requests: {
    /** In flight when the stop signal came. */
    inFlightAtSignal: number
    /** Arrived after the stop signal and answered. Probes do not count. */
    servedWhileDraining: number
    /** When the last one arrived, after the stop signal; `null` when none came. */
    lastAfterMs: number | null
  }
  /** What was cut off, oldest first: streams and WebSockets at their limit, the rest at the deadline. At most 100 of them. */
  cut: Holder[]
  /** How many were cut off. */
  cutCount: number
  errors: StopError[]
  /** From the configuration. */
  stopTimeoutMs: number
  deadlineMs: number
}

/** Handed to `onDraining` and `onClosing` hooks, and to workers. */
export interface StopContext {
  /** What began the stop. */
  readonly reason: string
  /** Milliseconds to the deadline. */
  remaining (): number
  /** Aborted at the abort mark: give up now. */
  readonly signal: AbortSignal
}

/** A hook of the stop. Hooks run side by side; one that throws or hangs does not keep the others from running. */
export type StopHook = (context: StopContext) => unknown

/** Handed to a job. */
export interface JobContext {
  /** Aborted when draining begins: a job that takes in one piece of work after the other begins no new one. */
  readonly signal: AbortSignal
  /** Aborted at the abort mark, or `abortGrace` before the job's own timeout: give up now, roll back. */
  readonly abortSignal: AbortSignal
  /** Milliseconds to the deadline; `Infinity` while no stop has begun. */
  remaining (): number
}

export interface JobOptions {
  /**
   * Seconds for which the job is waited for once draining has begun, 0.01-3600; after that it is named in log and
   * report, and the exit code is 1.
   * @default until the deadline
   */
  timeout?: number
}

/** Anything with a life of its own that takes in work: a queue consumer, a scheduler. */
export interface Worker {
  /** For log and report. */
  name: string
  /** Called when draining begins: take nothing in any more. Its promise is awaited. */
  stop (context: StopContext): unknown
  /** Called when `stop` has ended, also if it has failed. Resolves when what was taken in has been finished. */
  drain?: (context: StopContext) => unknown
  /** How many pieces of work are under way. Asked again until it says 0, once `drain` has ended. */
  active?: () => number
}

/** `fastify.shutdown` */
export interface Shutdown {
  readonly state: State
  /** Aborted when draining begins: stop taking in. */
  readonly signal: AbortSignal
  /** Aborted when closing begins: end your streams. */
  readonly closingSignal: AbortSignal
  /** Aborted at the abort mark, `abortGrace` before the deadline: give up now, roll back, put the message back. */
  readonly abortSignal: AbortSignal
  /** Milliseconds to the deadline; `Infinity` while no stop has begun. */
  remaining (): number
  /**
   * The same stop without a signal. Resolves with the report. A second call returns the same promise.
   * @param reason for log and report
   * @param options.exit ends every Fastify instance of the process, then the process. Default `false`.
   */
  begin (reason: string, options?: { exit?: boolean }): Promise<ShutdownReport>
  /**
   * Another listener whose requests go to `fastify.routing`: it is drained and closed like Fastify's own. Before it
   * listens, or at least before it has a connection.
   */
  addServer (server: HttpServer | HttpsServer | Http2Server | Http2SecureServer): void
  /**
   * Runs a job, and holds the exit until it has ended. Resolves and rejects as the job does. A job that fails during the
   * stop is named in log and report, and makes the exit code 1, whoever looks at the promise.
   * @param name for log and report; any number of jobs may have the same one
   * @throws FARGATE_ERR_DRAINING once draining has begun; the job is not begun then
   */
  run<T> (name: string, fn: (context: JobContext) => T | PromiseLike<T>, options?: JobOptions): Promise<T>
  /**
   * Holds the exit until the promise settles. Also while draining. A rejection is logged; during the stop it makes the
   * exit code 1.
   */
  waitUntil (name: string, promise: PromiseLike<unknown>, options?: JobOptions): void
  /**
   * Stops a worker when draining begins, and holds the exit until it has finished what it has taken in. One that throws
   * or hangs keeps nothing else from ending.
   */
  addWorker (worker: Worker): void
  /** Runs when draining begins: stop taking in. Its promise is awaited before `fastify.close()`. */
  onDraining (hook: StopHook): void
  /** Runs when closing begins, beside the requests in flight. Its promise is awaited before `fastify.close()`. */
  onClosing (hook: StopHook): void
}

/** Published on the diagnostics channel `fastify-fargate.state`. */
export interface StateMessage {
  fastify: FastifyInstance
  from: State
  to: State
  reason: string
}

/** Published on the diagnostics channel `fastify-fargate.report`. */
export interface ReportMessage {
  fastify: FastifyInstance
  report: ShutdownReport
}

declare module 'fastify' {
  interface FastifyInstance {
    shutdown: Shutdown
  }
  interface FastifyContextConfig {
    /** `traffic: false`: this route is asked by something else than the load balancer (a metrics scraper). */
    shutdown?: { traffic?: boolean }
  }
}
