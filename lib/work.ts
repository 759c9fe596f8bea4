import type { FastifyBaseLogger } from 'fastify'
import type { Holder, JobContext, JobOptions, StopContext, Worker } from '../types/index.js'
import { type Clock, sleep } from './clock.js'
import { type Countdown, newController } from './countdown.js'
import { FARGATE_ERR_BAD_ARGUMENT, FARGATE_ERR_DRAINING } from './errors.js'
import { type Entry, type Pending } from './pending.js'
import { inSeconds } from './report.js'
import { show } from './settings.js'

export interface WorkParts {
  /** Milliseconds between a job's abort signal and the end of the wait for it. */
  readonly abortGraceMs: number
  readonly clock: Clock
  readonly countdown: Countdown
  /** Aborted when draining begins: `fastify.shutdown.signal`. */
  readonly intake: AbortSignal
  readonly log: FastifyBaseLogger
  readonly pending: Pending
  /** Something failed during the stop. */
  fail (where: string, error: unknown): void
}

interface Job {
  readonly entry: Entry
  readonly timeoutMs: number | undefined
  readonly context: JobContext
  /** Only where there is a timeout: the job is told earlier than the others. */
  readonly abort: AbortController | undefined
  cancel: Array<() => void>
}

/** How often a worker is asked whether it has ended that cannot tell by itself. */
const RECHECK_MS = 50

/** Background work: jobs, which hold the exit until they have ended, and workers, which have a life of their own. */
export class Work {
  readonly #parts: WorkParts
  readonly #jobs = new Set<Job>()
  readonly #workers: Worker[] = []
  readonly #over = new AbortController()
  #context: StopContext | undefined
  /** A job has reached a timeout of its own, and is not waited for any longer. */
  onOverdue: (why: string, holder: Holder) => void = () => {}

  constructor (parts: WorkParts) {
    this.#parts = parts
  }

  /** Runs a job, and holds the exit until it has ended. Refused once draining has begun. */
  run<T> (name: string, fn: (context: JobContext) => T | PromiseLike<T>, options?: JobOptions): Promise<T> {
    let isTold = false
    const result = new Promise<T>((resolve, reject) => {
      this.#run(name, fn, options, () => { isTold = true }).then(resolve, (error: unknown) => {
        // Nobody has to look: of a refusal nothing was begun, and a failure has been reported.
        if (isTold) result.catch(() => {})
        reject(error)
      })
    })
    return result
  }

  async #run<T> (name: string, fn: (context: JobContext) => T | PromiseLike<T>, options: JobOptions | undefined, onTold: () => void): Promise<T> {
    const { intake } = this.#parts
    const timeoutMs = checkJob('fastify.shutdown.run', name, options)
    if (typeof fn !== 'function') throw new FARGATE_ERR_BAD_ARGUMENT('fastify.shutdown.run', 'a function', show(fn))
    if (intake.aborted) {
      onTold()
      throw new FARGATE_ERR_DRAINING(name)
    }
    const job = this.#begin(name, timeoutMs)
    try {
      const result = await fn(job.context)
      this.#end(job)
      return result
    } catch (error) {
      this.#end(job)
      if (intake.aborted) {
        this.#failed(job.entry.name, error)
        onTold()
      }
      throw error
    }
  }

  /** Holds the exit until the promise settles. Also while draining: whoever was taken in may need it to end. */
  waitUntil (name: string, promise: PromiseLike<unknown>, options?: JobOptions): void {
    const { intake, log } = this.#parts
    const timeoutMs = checkJob('fastify.shutdown.waitUntil', name, options)
    if (typeof promise?.then !== 'function') throw new FARGATE_ERR_BAD_ARGUMENT('fastify.shutdown.waitUntil', 'a promise', show(promise))
    const job = this.#begin(name, timeoutMs)
    if (this.#over.signal.aborted) log.warn(`${job.entry.name} came after the end of the stop: nobody waits for it`)
    const settle = async () => {
      try {
        await promise
      } catch (error) {
        if (intake.aborted) this.#failed(job.entry.name, error)
        else log.error({ err: error }, `${job.entry.name} has failed`)
      }
      this.#end(job)
    }
    void settle()
  }

  /** A worker that is added when draining has begun already is stopped at once. */
  addWorker (worker: Worker): void {
    checkWorker(worker)
    if (this.#workers.includes(worker)) return
    this.#workers.push(worker)
    if (this.#context !== undefined) void this.#stop(worker, this.#context)
  }

  /** Draining begins: workers stop taking in, and the timeouts of jobs begin to run. */
  drain (context: StopContext): void {
    if (this.#context !== undefined) return
    this.#context = context
    const { abort } = this.#parts.countdown
    abort.addEventListener('abort', () => { for (const job of this.#jobs) job.abort?.abort(abort.reason) })
    for (const job of this.#jobs) this.#arm(job)
    for (const worker of this.#workers) void this.#stop(worker, context)
  }

  /** Leaves no timer behind. */
  stop (): void {
    this.#over.abort()
    for (const job of this.#jobs) for (const cancel of job.cancel) cancel()
  }

  #begin (name: string, timeoutMs: number | undefined): Job {
    const { countdown, intake, pending } = this.#parts
    const abort = timeoutMs === undefined ? undefined : newController()
    const context = { signal: intake, abortSignal: abort?.signal ?? countdown.abort, remaining: () => countdown.remaining() }
    const job: Job = { entry: pending.begin('job', `job ${name}`), timeoutMs, context, abort, cancel: [] }
    this.#jobs.add(job)
    if (this.#context !== undefined) this.#arm(job)
    return job
  }

  /** Returns whether it was still waited for. */
  #end (job: Job): boolean {
    for (const cancel of job.cancel) cancel()
    this.#jobs.delete(job)
    return this.#parts.pending.end(job.entry)
  }

  /** During the stop. What fails after its end is no part of the report any more. */
  #failed (where: string, error: unknown): void {
    const { fail, log } = this.#parts
    if (this.#over.signal.aborted) log.error({ err: error }, `${where} has failed, after the end of the stop`)
    else fail(where, error)
  }

  #arm (job: Job): void {
    const { abortGraceMs, clock, pending } = this.#parts
    const { abort, entry, timeoutMs } = job
    if (timeoutMs === undefined || this.#over.signal.aborted) return
    job.cancel = [
      clock.after(timeoutMs - abortGraceMs, () => { abort!.abort(new Error(`The timeout of ${entry.name} is near`)) }),
      clock.after(timeoutMs, () => {
        if (this.#end(job)) this.onOverdue(`${entry.name} has its timeout of ${inSeconds(timeoutMs)} behind it`, pending.describe(entry))
      })
    ]
  }

  /** Stop taking in, then finish. Whatever of it fails, the rest is done. */
  async #stop (worker: Worker, context: StopContext): Promise<void> {
    const { clock, pending } = this.#parts
    const title = this.#titleOf(worker)
    const entry = pending.begin('worker', title, () => activityOf(worker))
    const attempt = async (step: string, fn: () => unknown) => {
      try {
        await fn()
      } catch (error) {
        this.#failed(`${title}: ${step}`, error)
      }
    }
    await attempt('stop', () => worker.stop(context))
    await attempt('drain', () => worker.drain?.(context))
    await attempt('active', async () => {
      while (!this.#over.signal.aborted && worker.active !== undefined && worker.active() > 0) await sleep(clock, RECHECK_MS, this.#over.signal)
    })
    pending.end(entry)
  }

  /** Each has a name of its own in the log, also two workers on the same queue. */
  #titleOf (worker: Worker): string {
    const namesakes = this.#workers.filter(({ name }) => name === worker.name)
    const number = namesakes.indexOf(worker) + 1
    return `worker ${worker.name}${number === 1 ? '' : ` #${number}`}`
  }
}

/** Never throws: it is asked while the holders are named. */
function activityOf (worker: Worker): string {
  try {
    const active = worker.active?.() ?? 0
    return active > 0 ? `${active} active` : ''
  } catch {
    return ''
  }
}

/** Milliseconds. @throws FARGATE_ERR_BAD_ARGUMENT */
function checkJob (method: string, name: unknown, options: JobOptions = {}): number | undefined {
  if (typeof name !== 'string' || name === '') throw new FARGATE_ERR_BAD_ARGUMENT(method, 'a name', show(name))
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw new FARGATE_ERR_BAD_ARGUMENT(method, 'options like { timeout }', show(options))
  refuseOthers(method, options, ['timeout'])
  const { timeout } = options
  if (timeout === undefined) return undefined
  if (typeof timeout !== 'number' || !(timeout >= 0.01 && timeout <= 3600)) {
    throw new FARGATE_ERR_BAD_ARGUMENT(method, 'a timeout of 0.01-3600 s', show(timeout))
  }
  return timeout * 1000
}

/** @throws FARGATE_ERR_BAD_ARGUMENT */
function checkWorker (worker: Worker): void {
  const expected = '{ name: string, stop: function, drain: function, active: function }'
  const isFunction = (value: unknown, isNeeded: boolean) => typeof value === 'function' || (!isNeeded && value === undefined)
  if (typeof worker?.name !== 'string' || worker.name === '' || !isFunction(worker.stop, true) || !isFunction(worker.drain, false) || !isFunction(worker.active, false)) {
    throw new FARGATE_ERR_BAD_ARGUMENT('fastify.shutdown.addWorker', expected, show(worker))
  }
  // An instance of a class may have more to it; a literal with something else in it has a typo.
  if (Object.getPrototypeOf(worker) === Object.prototype) refuseOthers('fastify.shutdown.addWorker', worker, ['name', 'stop', 'drain', 'active'])
}

function refuseOthers (method: string, given: object, known: readonly string[]): void {
  const other = Object.keys(given).find((key) => !known.includes(key))
  if (other !== undefined) throw new FARGATE_ERR_BAD_ARGUMENT(method, `nothing but ${known.join(', ')}`, other)
}
