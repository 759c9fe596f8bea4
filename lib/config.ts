import type {
  CrashPolicy, DeregistrationFunction, DeregistrationStrategy, FargateOptions, ReadinessCheck, StartupCheck, StopSignal,
  WebsocketClose
} from '../types/index.js'
import { FARGATE_ERR_BAD_SETTING, FARGATE_ERR_NO_TIME_TO_CLOSE, FARGATE_ERR_UNKNOWN_SETTING } from './errors.js'
import { parseSetting, settingKeys, settings, show, type SettingKey } from './settings.js'

export type Environment = Readonly<Record<string, string | undefined>>

/** Where a value comes from. */
export type Source = 'default' | 'option' | 'environment'

/** What the plugin runs on: every value present, durations in seconds, frozen. */
export interface Config {
  readonly stopTimeout: number
  readonly deregistrationDelay: number
  readonly deregistration: DeregistrationStrategy | DeregistrationFunction
  readonly quiet: number
  readonly margin: number
  readonly closeReserve: number
  readonly abortGrace: number
  readonly readinessPath: string | false
  readonly livenessPath: string | false
  readonly websocketClose: WebsocketClose
  readonly websocketPace: number
  readonly crash: CrashPolicy
  readonly stopSignal: StopSignal
  readonly startup: ReadonlyArray<Required<StartupCheck>>
  readonly readiness: Required<ReadinessCheck> | undefined
  readonly sources: Readonly<Record<SettingKey, Source>>
  /** Legal, but unlikely to work; each says what to do. */
  readonly warnings: readonly string[]
  readonly platform: Platform
}

/** `fargate` and `ecs` are told by variables that ECS sets in every container. */
export type Platform = 'fargate' | 'ecs' | 'elsewhere'

/** The longest a Fargate task has between a stop signal and SIGKILL, and a Spot task after its notice. */
const FARGATE_LIMIT = 120
/** Stragglers were seen for 17 s after deregistration, whatever the target group says. */
const STRAGGLER_LIMIT = 20

/** Options that belong to `fastify.register` itself. */
const REGISTER_OPTIONS = ['prefix', 'logLevel', 'logSerializers']
const PREFIX = 'FARGATE_'
const CODE_ONLY = ['startup', 'readiness']

export function detectPlatform (env: Environment): Platform {
  if (env['AWS_EXECUTION_ENV'] === 'AWS_ECS_FARGATE') return 'fargate'
  return env['ECS_CONTAINER_METADATA_URI_V4'] === undefined ? 'elsewhere' : 'ecs'
}

/**
 * Options and environment to a frozen configuration. The environment wins.
 * @throws FARGATE_ERR_BAD_SETTING, FARGATE_ERR_UNKNOWN_SETTING, FARGATE_ERR_NO_TIME_TO_CLOSE
 */
export function resolveConfig (options: FargateOptions, env: Environment): Config {
  refuseUnknown(options, env)
  const platform = detectPlatform(env)
  const sources = {} as Record<SettingKey, Source>

  const read = <K extends SettingKey>(key: K) => {
    const { env: variable } = settings[key]
    const fromEnv = env[variable]
    sources[key] = fromEnv !== undefined ? 'environment' : options[key] !== undefined ? 'option' : 'default'
    if (fromEnv !== undefined) return parseSetting(key, fromEnv, `environment variable ${variable}`)
    if (options[key] !== undefined) return parseSetting(key, options[key], `option ${key}`)
    return undefined
  }

  const stopTimeout = read('stopTimeout') ?? 30
  if (platform === 'fargate' && stopTimeout > FARGATE_LIMIT) {
    throw new FARGATE_ERR_BAD_SETTING(`stopTimeout (${sources.stopTimeout})`, stopTimeout, 'out of range',
      `2-${FARGATE_LIMIT} s on Fargate`, 'Set it to the stopTimeout of the container definition.')
  }
  const margin = read('margin') ?? clamp(stopTimeout / 15, 0.5, 2)
  const deadline = inMs(stopTimeout - margin)
  if (deadline <= 0) {
    throw new FARGATE_ERR_NO_TIME_TO_CLOSE(
      `margin ${margin} s is not below stopTimeout ${stopTimeout} s`, 'Lower margin or raise stopTimeout.')
  }
  const closeReserve = read('closeReserve') ?? deadline * 2 / 7
  if (closeReserve > deadline) {
    throw new FARGATE_ERR_NO_TIME_TO_CLOSE(
      `closeReserve ${closeReserve} s is over the deadline of ${deadline} s (stopTimeout ${stopTimeout} s - margin ${margin} s)`,
      'Lower closeReserve or raise stopTimeout.')
  }
  const abortGrace = read('abortGrace') ?? Math.min(clamp(deadline / 10, 0.25, 3), closeReserve)
  if (abortGrace > closeReserve) {
    throw new FARGATE_ERR_NO_TIME_TO_CLOSE(
      `abortGrace ${abortGrace} s is over closeReserve ${closeReserve} s, so requests would be aborted while draining`,
      'Lower abortGrace or raise closeReserve.')
  }

  const config = {
    stopTimeout,
    deregistrationDelay: read('deregistrationDelay') ?? 20,
    deregistration: readDeregistration(options, env, sources, read),
    quiet: read('quiet') ?? 3,
    margin,
    closeReserve,
    abortGrace,
    readinessPath: read('readinessPath') ?? '/health/ready',
    livenessPath: read('livenessPath') ?? '/health/live',
    websocketClose: (read('websocketClose') ?? 'closing') as WebsocketClose,
    websocketPace: read('websocketPace') ?? 0,
    crash: (read('crash') ?? 'close') as CrashPolicy,
    stopSignal: (read('stopSignal') ?? 'SIGTERM') as StopSignal,
    startup: readStartup(options.startup),
    readiness: readReadiness(options.readiness),
    sources: Object.freeze(sources),
    platform
  }
  if (config.readinessPath !== false && config.readinessPath === config.livenessPath) {
    throw new FARGATE_ERR_BAD_SETTING('livenessPath', show(config.livenessPath), 'the same as readinessPath',
      'two paths', 'A draining task is alive but not ready: give each its own path.')
  }
  return Object.freeze({ ...config, warnings: Object.freeze(warningsFor(config)) })
}

function readDeregistration (
  options: FargateOptions, env: Environment, sources: Record<SettingKey, Source>,
  read: (key: 'deregistration') => string | undefined
): DeregistrationStrategy | DeregistrationFunction {
  if (typeof options.deregistration === 'function' && env[settings.deregistration.env] === undefined) {
    sources.deregistration = 'option'
    return options.deregistration
  }
  return (read('deregistration') ?? 'traffic') as DeregistrationStrategy
}

function warningsFor (config: Omit<Config, 'warnings'>): string[] {
  const warnings: string[] = []
  const { stopTimeout, deregistrationDelay, platform } = config
  const drainLimit = inMs(stopTimeout - config.margin - config.closeReserve)
  if (platform !== 'fargate' && stopTimeout > FARGATE_LIMIT) {
    warnings.push(`stopTimeout ${inSeconds(stopTimeout)} is legal on EC2 only: Fargate allows ${FARGATE_LIMIT} s at most.`)
  }
  // Where nothing waits for the load balancer its delay does not matter.
  if (config.deregistration === 'none') return warnings
  if (inMs(deregistrationDelay) > drainLimit) {
    warnings.push(`deregistrationDelay ${inSeconds(deregistrationDelay)} does not fit: stopTimeout ${inSeconds(stopTimeout)} leaves ${inSeconds(drainLimit)} for draining, so draining ends there. Raise stopTimeout in the container definition and here, or lower the deregistration delay of the target group.`)
  }
  if (platform !== 'elsewhere' && deregistrationDelay < STRAGGLER_LIMIT) {
    warnings.push(`deregistrationDelay ${inSeconds(deregistrationDelay)} is short: a load balancer was seen to send requests for 17 s after deregistration, whatever the target group says. Use ${STRAGGLER_LIMIT} s or more.`)
  }
  if (platform === 'fargate' && deregistrationDelay + stopTimeout > FARGATE_LIMIT) {
    warnings.push(`deregistrationDelay ${inSeconds(deregistrationDelay)} + stopTimeout ${inSeconds(stopTimeout)} = ${inSeconds(deregistrationDelay + stopTimeout)}: on Fargate Spot the task is gone ${FARGATE_LIMIT} s after the interruption notice, so it may be killed ${inSeconds(deregistrationDelay + stopTimeout - FARGATE_LIMIT)} before its stopTimeout. Keep the sum at ${FARGATE_LIMIT} s or less.`)
  }
  return warnings
}

function readStartup (checks: FargateOptions['startup']): Config['startup'] {
  if (checks === undefined) return Object.freeze([])
  if (!Array.isArray(checks)) throw misfit('option startup', checks, 'no array', 'an array of { name, check, timeout }')
  return Object.freeze(checks.map((check: StartupCheck, index) => {
    const where = `option startup[${index}]`
    if (typeof check?.check !== 'function' || typeof check.name !== 'string' || check.name === '') {
      throw misfit(where, check, 'no check', '{ name: string, check: function, timeout: seconds }')
    }
    refuseOthers(where, check, ['name', 'check', 'timeout'])
    return Object.freeze({ name: check.name, check: check.check, timeout: limited(`${where}.timeout`, check.timeout, 5) })
  }))
}

function readReadiness (readiness: FargateOptions['readiness']): Config['readiness'] {
  if (readiness === undefined) return undefined
  const given: ReadinessCheck = typeof readiness === 'function' ? { check: readiness } : readiness
  if (typeof given?.check !== 'function') {
    throw misfit('option readiness', readiness, 'no check', 'a function, or { check, timeout, cache, failures, successes }')
  }
  refuseOthers('option readiness', given, ['check', 'timeout', 'cache', 'failures', 'successes'])
  return Object.freeze({
    check: given.check,
    timeout: limited('option readiness.timeout', given.timeout, 2),
    cache: limited('option readiness.cache', given.cache, 5),
    failures: counted('option readiness.failures', given.failures, 3),
    successes: counted('option readiness.successes', given.successes, 2)
  })
}

function limited (where: string, value: number | undefined, otherwise: number): number {
  if (value === undefined) return otherwise
  if (typeof value === 'number' && value >= 0.01 && value <= 300) return value
  throw misfit(where, value, 'out of range', '0.01-300 s')
}

function counted (where: string, value: number | undefined, otherwise: number): number {
  if (value === undefined) return otherwise
  if (Number.isInteger(value) && value >= 1 && value <= 100) return value
  throw misfit(where, value, 'out of range', 'a whole number, 1-100')
}

function refuseOthers (where: string, given: object, known: readonly string[]): void {
  const other = Object.keys(given).find((key) => !known.includes(key))
  if (other !== undefined) throw new FARGATE_ERR_UNKNOWN_SETTING(`${where}.${other}`, `Known: ${known.join(', ')}.`)
}

function misfit (where: string, value: unknown, is: string, expected: string): Error {
  return new FARGATE_ERR_BAD_SETTING(where, show(value), is, expected, `Give it ${expected}.`)
}

/** A typo must not become a silent default, neither in the code nor in the task definition. */
function refuseUnknown (options: FargateOptions, env: Environment): void {
  if (typeof options !== 'object' || options === null) throw misfit('options', options, 'no object', 'an object')
  const known = [...settingKeys, ...CODE_ONLY]
  for (const key of Object.keys(options)) {
    if (known.includes(key) || REGISTER_OPTIONS.includes(key)) continue
    const meant = nearest(key, known)
    throw new FARGATE_ERR_UNKNOWN_SETTING(`option ${key}`,
      meant === undefined ? `Known options: ${known.join(', ')}.` : `Did you mean ${meant}?`)
  }
  const variables: string[] = settingKeys.map((key) => settings[key].env.slice(PREFIX.length))
  for (const variable of Object.keys(env)) {
    // FARGATE_ is no prefix of ours alone, so only a variable that is nearly one of ours is refused.
    if (!variable.startsWith(PREFIX)) continue
    const name = variable.slice(PREFIX.length)
    if (variables.includes(name)) continue
    const meant = nearest(name, variables)
    if (meant !== undefined) throw new FARGATE_ERR_UNKNOWN_SETTING(`environment variable ${variable}`, `Did you mean ${PREFIX}${meant}?`)
  }
}

/** The known name that is at most a quarter of its letters away. */
function nearest (name: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let least = Infinity
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < least && distance <= candidate.length / 4) {
      best = candidate
      least = distance
    }
  }
  return best
}

function editDistance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}

function clamp (value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), max)
}

/** Whole milliseconds, in seconds: 2.3 - 0.1 is 2.2. */
function inMs (seconds: number): number {
  return Math.round(seconds * 1000) / 1000
}

function inSeconds (seconds: number): string {
  return `${Math.round(seconds * 100) / 100} s`
}
