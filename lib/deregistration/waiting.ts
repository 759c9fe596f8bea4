import type { FastifyBaseLogger } from 'fastify'
import { type Clock } from '../clock.js'
import { type Config } from '../config.js'
import { type Countdown } from '../countdown.js'
import { type Requests } from '../requests.js'
import { type Timeline } from '../timeline.js'

/** What the strategies look at. */
export interface Waiting {
  readonly clock: Clock
  readonly config: Config
  readonly countdown: Countdown
  readonly log: FastifyBaseLogger
  readonly reason: string
  readonly requests: Requests
  readonly timeline: Timeline
}
