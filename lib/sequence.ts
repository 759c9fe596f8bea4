import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { ShutdownReport, StopContext, StopError } from '../types/index.js'
import { type Clock, sleep } from './clock.js'
import { type Config } from './config.js'
import { type Countdown, settledBefore } from './countdown.js'
import { letGo } from './deregistration/index.js'
import { FARGATE_ERR_TIME_LIMIT } from './errors.js'
import { type Holders } from './holders.js'
import { type Hooks } from './hooks.js'
import { type Lifecycle } from './lifecycle.js'
import { type Pending } from './pending.js'
import { logProgress } from './progress.js'
import { inSeconds, makeReport, publishReport } from './report.js'
import { type Requests } from './requests.js'
import { type Sockets } from './sockets.js'
import { type Timeline } from './timeline.js'
import { type WebSockets } from './websockets.js'
import { type Work } from './work.js'

export interface StopRequest {
  /** `SIGTERM`, ... */
  readonly reason: string
  /** Whether to wait for the load balancer. */
  readonly waits: boolean
}

export interface SequenceParts {
  readonly clock: Clock
  /** Aborted when closing begins: `fastify.shutdown.closingSignal`. */
  readonly closing: AbortController
  readonly config: Config
  readonly countdown: Countdown
  readonly fastify: FastifyInstance
  readonly holders: Holders
  readonly hooks: Hooks
  /** Aborted when draining begins: `fastify.shutdown.signal`. */
  readonly intake: AbortController
  /** Leaves the process's coordinator. */
  readonly leave: () => void
  readonly lifecycle: Lifecycle
  readonly log: FastifyBaseLogger
  readonly pending: Pending
  readonly requests: Requests
  readonly sockets: Sockets
  readonly timeline: Timeline
  readonly webSockets: WebSockets
  readonly work: Work
}

/** How often a request in flight is looked at again: that its response has begun comes with no event. */
const RECHECK_MS = 100

/** The stop of one Fastify instance, top to bottom, once. */
export class Sequence {
  readonly #parts: SequenceParts
  readonly #errors: StopError[] = []
  /** Ends draining; its reason says why. */
  readonly #drainOver = new AbortController()
  #reason = ''
  #inFlightAtSignal = 0
  #drainEnded = ''
  #isDrainedBySilence = false
  #drainedAfterMs = 0
  #finishedAfterMs = 0
  #running: Promise<ShutdownReport> | undefined
  #result: ShutdownReport | undefined
  #closing: Promise<void> | undefined
  #stopProgress: () => void = () => {}

  constructor (parts: SequenceParts) {
    this.#parts = parts
  }

  /** Stops. A second call returns the same promise; one that does not want to wait ends the waiting. Never rejects. */
  run (request: StopRequest): Promise<ShutdownReport> {
    if (this.#running !== undefined) {
      if (!request.waits) this.#endDraining(`${request.reason} came`)
      return this.#running
    }
    // Known before it runs: a hook may ask for the stop that it is part of.
    let settle: (report: Promise<ShutdownReport>) => void
    this.#running = new Promise((resolve) => { settle = resolve })
    settle!(this.#execute(request))
    return this.#running
  }

  /** Something failed: the stop goes on, and the exit code is 1. */
  fail (where: string, error: unknown): void {
    const { message, code } = (error instanceof Error ? error : new Error(String(error))) as Error & { code?: unknown }
    this.#errors.push({ where, message, ...(typeof code === 'string' && { code }) })
    this.#parts.log.error({ err: error }, `${where}: ${message}. The exit code will be 1`)
  }

  /** A second stop signal: straight to the abort mark. */
  hasten (reason: string): void {
    const { countdown, log } = this.#parts
    // Before the countdown says that the drain limit is reached.
    this.#endDraining(reason)
    countdown.hasten()
    log.warn(`${reason}: draining ends now, what is left has ${inSeconds(countdown.remaining())}`)
  }

  async #execute ({ reason, waits }: StopRequest): Promise<ShutdownReport> {
    const { clock, config, countdown, lifecycle, log, pending, requests, sockets, timeline } = this.#parts
    // The application has called fastify.close() before: what is left is to see it through.
    const isClosing = lifecycle.isStopping
    if (this.#result !== undefined) return this.#result
    const isListening = sockets.isListening
    this.#begin(reason)
    if (!isClosing && waits) {
      log.info(`${reason}: draining, with ${requests.inFlight} in flight. Readiness says 503, every route still answers. Draining ends after ${inSeconds(timeline.drainLimit)} at the latest, the deadline is in ${inSeconds(timeline.deadline)}`)
      lifecycle.move('draining', reason)
      this.#stopIntake()
      if (config.websocketClose === 'draining') void this.#tellWebSockets(false)
      const drainEnded = isListening ? await this.#untilLetGo() : 'nothing listens here'
      if (this.#result !== undefined) return this.#result
      await this.#beginClosing(drainEnded)
    } else if (!isClosing) {
      this.#stopIntake()
      await this.#beginClosing('no wait for the load balancer was wanted')
    }
    await this.#untilAnswered()
    this.#finishedAfterMs = countdown.elapsed()
    const closed = this.#close()
    // An onClose hook may ask for something to be waited for.
    const isInTime = await settledBefore(countdown.deadline, closed.then(() => pending.settled()))
    // A hook that blocked the event loop has blocked the timer of the deadline too.
    if (!isInTime || countdown.remaining() === 0) {
      this.#cutOff(`the deadline of ${inSeconds(timeline.deadline)} is reached`)
      await sleep(clock, (timeline.backstop - timeline.deadline) / 2, closed)
    }
    return this.#finish()
  }

  #begin (reason: string): void {
    const { countdown, holders, intake, requests, timeline } = this.#parts
    if (countdown.startedAt !== undefined) return
    this.#reason = reason
    // In this order: what has arrived already came before the signal.
    requests.drain()
    countdown.start()
    this.#inFlightAtSignal = requests.inFlight
    countdown.streamLimit.addEventListener('abort', () => {
      holders.cutStreams(`the limit for streams of ${inSeconds(timeline.streamLimit)} is reached`)
    })
    intake.abort(new Error(`The service stops: ${reason}`))
    this.#stopProgress = logProgress(this.#parts, reason)
  }

  /** Workers take nothing in any more, and end what they have. */
  #stopIntake (): void {
    const { hooks, work } = this.#parts
    hooks.run('onDraining', this.#context())
    work.drain(this.#context())
  }

  #context (): StopContext {
    const { countdown } = this.#parts
    return { reason: this.#reason, remaining: () => countdown.remaining(), signal: countdown.abort }
  }

  async #untilLetGo (): Promise<string> {
    const { clock, config, countdown, requests, timeline } = this.#parts
    countdown.drainLimit.addEventListener('abort', () => {
      const { lastArrivalAt } = requests
      const last = lastArrivalAt === undefined ? 'no request ever came' : `the last request came ${inSeconds(clock.now() - lastArrivalAt)} before`
      this.#endDraining(`the drain limit of ${inSeconds(timeline.drainLimit)} was reached; ${last}`)
    })
    const { signal } = this.#drainOver
    const ended = await Promise.race([
      letGo({ ...this.#parts, reason: this.#reason }, signal).then((reason) => {
        this.#isDrainedBySilence = !signal.aborted && config.deregistration === 'traffic' && countdown.elapsed() < timeline.drainEnd
        return reason
      }),
      new Promise<string>((resolve) => { signal.addEventListener('abort', () => { resolve(String(signal.reason)) }) })
    ])
    return signal.aborted ? String(signal.reason) : ended
  }

  #endDraining (reason: string): void {
    this.#drainOver.abort(reason)
  }

  /** Resolves when fastify.close() may be called, as far as connections go. */
  async #beginClosing (drainEnded: string): Promise<void> {
    const { closing, countdown, hooks, lifecycle, log, requests, sockets } = this.#parts
    this.#drainEnded = drainEnded
    this.#drainedAfterMs = countdown.elapsed()
    // Somebody else may have called fastify.close() meanwhile: preClose() has told the WebSocket clients.
    const isClosing = lifecycle.state === 'closing'
    if (!isClosing) {
      log.info(`closing, ${inSeconds(this.#drainedAfterMs)} after ${this.#reason}: ${drainEnded}. ${requests.inFlight} in flight`)
      lifecycle.move('closing', drainEnded)
    }
    sockets.stopAccepting()
    const released = sockets.releaseAll(true)
    closing.abort(new Error(`The service closes: ${drainEnded}`))
    hooks.run('onClosing', this.#context())
    // fastify.close() has @fastify/websocket close all of its clients, without a code.
    await settledBefore(countdown.deadline, Promise.all([released, isClosing || this.#tellWebSockets(true)]))
  }

  /** At the pace that was asked for; at the abort mark at the latest. */
  async #tellWebSockets (isLast: boolean): Promise<void> {
    const { config, countdown, timeline, webSockets } = this.#parts
    if (config.websocketClose === 'none') return
    const windowMs = Math.min(config.websocketPace * 1000, Math.max(0, timeline.abort - countdown.elapsed()))
    await webSockets.announce(windowMs, countdown.abort, isLast)
  }

  /**
   * Until every request has its answer, and every job, worker and hook has ended. A response that has begun may be a
   * stream without end, which its plugin ends in a preClose hook: fastify.close() waits for those, not we. At the abort
   * mark those hooks get their turn whoever is still without an answer; fastify.close() goes on waiting for it.
   */
  async #untilAnswered (): Promise<void> {
    const { clock, countdown, pending, requests } = this.#parts
    const { abort, deadline } = countdown
    while (!deadline.aborted && (pending.size > 0 || (requests.unanswered > 0 && !abort.aborted))) {
      await sleep(clock, RECHECK_MS, deadline, requests.nextEnd(), pending.nextEnd())
    }
  }

  /** `fastify.close()`: preClose hooks, the server, onClose hooks. Resolves in every case. */
  #close (): Promise<void> {
    this.#closing ??= this.#parts.fastify.close().then(() => {}, (error: unknown) => { this.fail('fastify.close()', error) })
    return this.#closing
  }

  #cutOff (why: string): void {
    const { countdown, holders } = this.#parts
    holders.cutAll(why, () => countdown.elapsed() - this.#finishedAfterMs)
  }

  #finish (): ShutdownReport {
    const { countdown, fastify, leave, lifecycle, log, requests, webSockets, work } = this.#parts
    if (this.#result !== undefined) return this.#result
    countdown.stop()
    requests.stop()
    webSockets.stop()
    work.stop()
    this.#stopProgress()
    lifecycle.move('closed', 'the stop has ended')
    this.#result = this.#report()
    publishReport(fastify, log, this.#result)
    leave()
    return this.#result
  }

  /** The process is about to exit, with the stop unfinished: says who held it, and reports. Nothing is awaited. */
  giveUp (why: string): void {
    const { countdown, lifecycle } = this.#parts
    if (this.#result !== undefined) return
    this.#cutOff(why)
    if (lifecycle.state !== 'closing') {
      this.#drainEnded = why
      this.#drainedAfterMs = countdown.elapsed()
      lifecycle.move('closing', why)
    }
    this.#finishedAfterMs = Math.max(this.#finishedAfterMs, this.#drainedAfterMs)
    this.#finish()
  }

  #report (): ShutdownReport {
    const { countdown, holders, requests, timeline } = this.#parts
    return makeReport({
      reason: this.#reason,
      drainEnded: this.#drainEnded,
      isDrainedBySilence: this.#isDrainedBySilence,
      drainedAfterMs: this.#drainedAfterMs,
      finishedAfterMs: this.#finishedAfterMs,
      totalMs: countdown.elapsed(),
      inFlightAtSignal: this.#inFlightAtSignal,
      servedWhileDraining: requests.served,
      lastAfterMs: requests.lastArrivalAt === undefined ? undefined : requests.lastArrivalAt - countdown.startedAt!,
      cut: holders.cut,
      cutCount: holders.cutCount,
      errors: this.#errors,
      timeline
    })
  }

  /**
   * Fastify's preClose hook. When the application itself called `fastify.close()` (a test, a script, a signal handler of
   * its own) this is the stop: at once, with the same hooks, and without a wait.
   */
  async preClose (): Promise<void> {
    const { clock, closing, config, countdown, fastify, hooks, lifecycle, log, pending, sockets, timeline, webSockets } = this.#parts
    if (this.#closing !== undefined) return
    const reason = 'fastify.close() was called'
    if (lifecycle.state === 'draining') {
      log.warn('fastify.close() was called by the application while draining: from now on requests are answered 503')
      lifecycle.move('closing', reason)
      this.#endDraining(reason)
    } else if (!lifecycle.isStopping) {
      this.#begin('fastify.close()')
      countdown.deadline.addEventListener('abort', () => { this.#cutOff(`the deadline of ${inSeconds(timeline.deadline)} is reached`) })
      lifecycle.move('closing', reason)
      this.#drainEnded = reason
    }
    // Fastify 5.9.0 to 5.11.0 cuts what is in flight also where nobody asked for it.
    sockets.stopAccepting()
    void sockets.releaseAll(fastify.initialConfig.forceCloseConnections !== true)
    closing.abort(new Error(`The service closes: ${reason}`))
    this.#stopIntake()
    hooks.run('onClosing', this.#context())
    if (config.websocketClose !== 'none') await webSockets.announce(0, countdown.abort, true)
    // Fastify gives a preClose hook pluginTimeout; one that takes longer fails the close.
    const { pluginTimeout } = fastify.initialConfig
    const limitMs = Math.min(countdown.remaining(), pluginTimeout === 0 ? Infinity : pluginTimeout! - 500)
    await sleep(clock, limitMs, pending.settled())
    // At the deadline they have been named already.
    for (const { name } of pending.giveUp()) if (!countdown.deadline.aborted) this.fail(name, new FARGATE_ERR_TIME_LIMIT(name, limitMs / 1000))
    this.#finishedAfterMs = countdown.elapsed()
  }

  /** Fastify's onClose hook, the last one. Those before it may have asked for something to be waited for. */
  async closed (): Promise<void> {
    const { countdown, pending } = this.#parts
    if (this.#running !== undefined) return
    await settledBefore(countdown.deadline, pending.settled())
    this.#finish()
  }
}
