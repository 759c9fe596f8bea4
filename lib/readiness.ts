import type { FastifyBaseLogger } from 'fastify'
import { type Clock, limited } from './clock.js'
import { type Config } from './config.js'
import { FARGATE_ERR_TIME_LIMIT } from './errors.js'

/**
 * The opt-in check behind the readiness route: one at a time, cached, and with hysteresis, so that one slow answer of a
 * dependency does not take the whole fleet out of service.
 */
export class Readiness {
  readonly #check: NonNullable<Config['readiness']>
  readonly #clock: Clock
  readonly #log: FastifyBaseLogger
  #isPassing = true
  /** Results in a row that speak against `#isPassing`. */
  #against = 0
  #checkedAt = -Infinity
  #running: Promise<void> | undefined

  constructor (check: NonNullable<Config['readiness']>, clock: Clock, log: FastifyBaseLogger) {
    this.#check = check
    this.#clock = clock
    this.#log = log
  }

  async isPassing (): Promise<boolean> {
    if (this.#clock.now() - this.#checkedAt >= this.#check.cache * 1000) {
      this.#running ??= this.#refresh()
      await this.#running
    }
    return this.#isPassing
  }

  async #refresh (): Promise<void> {
    const { check, timeout, failures, successes } = this.#check
    let failure: unknown
    try {
      const result = await limited(this.#clock, timeout, check, () => new FARGATE_ERR_TIME_LIMIT('the readiness check', timeout))
      if (result === false) failure = new Error('the readiness check returned false')
    } catch (error) {
      failure = error ?? new Error('the readiness check failed')
    }
    this.#checkedAt = this.#clock.now()
    this.#running = undefined
    if ((failure === undefined) === this.#isPassing) {
      this.#against = 0
      return
    }
    this.#against++
    if (this.#against < (this.#isPassing ? failures : successes)) return
    this.#against = 0
    this.#isPassing = !this.#isPassing
    if (this.#isPassing) this.#log.info('the readiness check succeeds again, so readiness says 200')
    else this.#log.error({ err: failure }, `the readiness check failed ${failures} times in a row, so readiness says 503`)
  }
}
