import type { FastifyBaseLogger } from 'fastify'
import type { CrashPolicy, ShutdownReport, StopSignal } from '../types/index.js'
import { type Clock } from './clock.js'
import { type Host } from './host.js'
import { FLUSH_LIMIT_MS, flushLog } from './log.js'
import { type StopRequest } from './sequence.js'

/** One Fastify instance, as the coordinator sees it. */
export interface Member {
  readonly log: FastifyBaseLogger
  readonly crash: CrashPolicy
  readonly stopSignal: StopSignal
  /** Milliseconds from the stop signal to the forced exit. */
  readonly backstopMs: number
  stop (request: StopRequest): Promise<ShutdownReport>
  hasten (reason: string): void
  fail (where: string, error: unknown): void
  /** The process is about to exit: says who held it, and reports. Nothing is awaited. */
  giveUp (reason: string): void
}

/** A signal delivered twice (dumb-init and npm both forward it) is one signal. */
const SAME_SIGNAL_MS = 250

/** `stopTimeout` is 3600 s at most. */
const LONGEST_BACKSTOP_MS = 3_600_000

const ERRORS = ['uncaughtException', 'unhandledRejection'] as const

/**
 * One per process, whatever the number of Fastify instances: one set of listeners; all instances stop together; the
 * process ends when the last one has closed.
 */
export class Coordinator {
  readonly #host: Host
  readonly #clock: Clock
  readonly #members = new Set<Member>()
  readonly #signals = new Map<string, () => void>()
  readonly #errors = new Map<string, (error: unknown) => void>()
  #stop: StopRequest | undefined
  #hasFailed = false
  #signalsSeen = 0
  #lastSignal: string | undefined
  #lastSignalAt = -Infinity

  constructor (host: Host, clock: Clock) {
    this.#host = host
    this.#clock = clock
  }

  /** From here on the instance stops when the process is told to. Returns how to leave; nothing stays behind. */
  join (member: Member): () => void {
    this.#members.add(member)
    for (const signal of new Set<string>(['SIGTERM', 'SIGINT', member.stopSignal])) {
      if (!this.#signals.has(signal)) this.#listen(this.#signals, signal, () => { this.#signalled(signal) })
    }
    for (const event of ERRORS) {
      if (!this.#errors.has(event)) this.#listen(this.#errors, event, (error) => { this.#crashed(event, error) })
    }
    if (this.#stop !== undefined) void member.stop(this.#stop)
    return () => {
      this.#members.delete(member)
      // While the process stops the listeners stay: a second signal has a meaning until the very end.
      if (this.#members.size === 0 && this.#stop === undefined) this.#unlisten()
    }
  }

  /** Whether the process ends when the stop has. */
  get isExiting (): boolean {
    return this.#stop !== undefined
  }

  /** Listeners of others for a signal: they may end the process in the middle of the stop. */
  foreignListeners (signal: string): number {
    return this.#host.listeners(signal).filter((listener) => listener !== this.#signals.get(signal)).length
  }

  /** Stops all instances, then ends the process. */
  exit (request: StopRequest): void {
    if (this.#stop !== undefined) return
    this.#stop = request
    // The application calls process.exit() in the middle. Nobody can hold that up, but somebody has to say so.
    this.#host.atExit(() => { for (const member of this.#members) member.giveUp('the application called process.exit()') })
    const backstopMs = Math.min(LONGEST_BACKSTOP_MS, ...[...this.#members].map((member) => member.backstopMs))
    this.#host.closeAndExit(() => this.#stopAll(request), backstopMs, () => {
      for (const member of this.#members) member.giveUp('the stop took longer than its budget')
    })
  }

  async #stopAll (request: StopRequest): Promise<void> {
    let exitCode = 0
    const stopped = new Set<Member>()
    // An instance may be registered while the others stop.
    for (let left = [...this.#members]; left.length > 0; left = [...this.#members].filter((member) => !stopped.has(member))) {
      const reports = await Promise.all(left.map((member) => {
        stopped.add(member)
        return member.stop(request)
      }))
      for (const report of reports) exitCode = Math.max(exitCode, report.exitCode)
    }
    await this.#flush([...stopped])
    // Last, as something may fail while the log is written.
    if (exitCode > 0 || this.#hasFailed) throw new Error('exit code 1')
  }

  #signalled (signal: string): void {
    const now = this.#clock.now()
    const isSame = signal === this.#lastSignal
    if (isSame && now - this.#lastSignalAt < SAME_SIGNAL_MS) return
    this.#lastSignal = signal
    this.#lastSignalAt = now
    this.#signalsSeen++
    const request = { reason: signal, waits: this.#waitsFor(signal) }
    if (this.#stop === undefined) {
      this.exit(request)
    } else if (this.#signalsSeen === 1) {
      // The stop began without a signal, after a crash or by begin(): this is ECS, which has noticed.
      for (const member of this.#members) void member.stop(request)
    } else if (this.#signalsSeen > 2 || (isSame && !request.waits)) {
      for (const member of this.#members) member.giveUp(`${signal} came again`)
      this.#host.exit(1)
    } else {
      for (const member of this.#members) member.hasten(`${signal} came as a second stop signal`)
    }
  }

  /** SIGINT is a developer's Ctrl-C, unless it is the image's stop signal: no load balancer to wait for. */
  #waitsFor (signal: string): boolean {
    return signal !== 'SIGINT' || [...this.#members].some(({ stopSignal }) => stopSignal === 'SIGINT')
  }

  #crashed (event: string, error: unknown): void {
    this.#hasFailed = true
    const members = [...this.#members]
    for (const member of members) member.fail(event, error)
    if (this.#stop !== undefined) return
    const { crash } = members[0]!
    if (crash !== 'exit') this.exit({ reason: event, waits: crash === 'drain' })
    else this.#host.closeAndExit(() => this.#flush(members).then(() => { throw error }), FLUSH_LIMIT_MS * 2, () => {})
  }

  async #flush (members: readonly Member[]): Promise<void> {
    await Promise.all(members.map(({ log }) => flushLog(log, this.#clock)))
  }

  #listen<T extends (...args: any[]) => void> (listeners: Map<string, T>, event: string, listener: T): void {
    listeners.set(event, listener)
    this.#host.on(event, listener)
  }

  #unlisten (): void {
    for (const listeners of [this.#signals, this.#errors]) {
      for (const [event, listener] of listeners) this.#host.off(event, listener)
      listeners.clear()
    }
  }
}

const KEY = Symbol.for('fastify-fargate.coordinator')

/** The process's one coordinator, also when two copies of this package are installed. */
export function processCoordinator (host: Host, clock: Clock): Coordinator {
  const shared = globalThis as { [KEY]?: Coordinator }
  shared[KEY] ??= new Coordinator(host, clock)
  return shared[KEY]
}
