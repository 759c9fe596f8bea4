// What must be true of every run, whatever the order of events. Each is derived from the plan and the truth, never from
// what the plugin counts.

import { strict as assert } from 'node:assert'
import { type State } from '../../types/index.js'
import { PLUGIN_TIMEOUT_MS } from './fastify.js'
import { type PlannedHook } from './plan.js'
import { type Accepted, type Instance, type World } from './world.js'

const ORDER: State[] = ['starting', 'ready', 'draining', 'closing', 'closed']
const SAME_SIGNAL_MS = 250

/** What the signals and errors amount to. */
interface Policy {
  /** The process was told to end. */
  exitAskedAt: number
  /** Instances that had ended their stop before. */
  ended: Instance[]
  /** The second stop signal: straight to the abort mark. */
  hastenAt: number
  /** A third signal, a second SIGINT, or a crash with `crash: 'exit'`. */
  forcedAt: number
  /** From here on nothing waits for the load balancer. */
  noWaitAt: number
  /** An error that nobody caught. */
  failedAt: number
  /** A signal for which nobody listened any more: its default action ends the process. */
  killedAt: number
}

function policyOf ({ config, triggers }: World): Policy {
  const policy: Policy = { exitAskedAt: Infinity, ended: [], hastenAt: Infinity, forcedAt: Infinity, noWaitAt: Infinity, failedAt: Infinity, killedAt: Infinity }
  let seen = 0
  let last: { kind: string, at: number } | undefined
  const first = (key: Exclude<keyof Policy, 'ended'>, at: number) => { policy[key] = Math.min(policy[key], at) }
  for (const { at, kind, wasHeard, ended } of triggers) {
    const ask = () => {
      if (policy.exitAskedAt < Infinity) return
      policy.exitAskedAt = at
      policy.ended = ended
    }
    if (at >= policy.forcedAt) break
    if (kind === 'SIGTERM' || kind === 'SIGINT') {
      if (!wasHeard) {
        first('killedAt', at)
        break
      }
      if (last?.kind === kind && at - last.at < SAME_SIGNAL_MS) continue
      const waits = kind === 'SIGTERM' || config.stopSignal === 'SIGINT'
      const isSame = last?.kind === kind
      last = { kind, at }
      seen++
      if (policy.exitAskedAt === Infinity) ask()
      else if (seen > 2 || (seen === 2 && isSame && !waits)) first('forcedAt', at)
      else if (seen === 2) first('hastenAt', at)
      if (!waits) first('noWaitAt', at)
    } else if (kind === 'fastify.close()') {
      first('noWaitAt', at)
    } else if (kind === 'begin and exit') {
      ask()
    } else if (kind !== 'begin') {
      if (!wasHeard) {
        first('killedAt', at)
        break
      }
      first('failedAt', at)
      if (policy.exitAskedAt === Infinity) {
        if (config.crash === 'exit') first('forcedAt', at)
        else ask()
        if (config.crash === 'close') first('noWaitAt', at)
      }
    }
  }
  return policy
}

/** The marks as the README computes them, and not as the code does. */
function marksOf ({ config: { stopTimeout, margin, closeReserve, abortGrace, deregistrationDelay } }: World) {
  const deadline = stopTimeout - margin
  const drainLimit = deadline - closeReserve
  return Object.fromEntries(Object.entries({
    drainEnd: Math.min(deregistrationDelay, drainLimit),
    drainLimit,
    abort: deadline - abortGrace,
    streamLimit: deadline - abortGrace / 2,
    deadline,
    // Half-way to the backstop, which is half-way to SIGKILL: until then hooks may end that were cut off.
    end: deadline + margin / 4,
    goodbyeGrace: closeReserve / 2
  }).map(([name, seconds]) => [name, Math.round(seconds * 1000)])) as Record<'drainEnd' | 'drainLimit' | 'abort' | 'streamLimit' | 'deadline' | 'end' | 'goodbyeGrace', number>
}

interface Case {
  readonly world: World
  readonly policy: Policy
  readonly instance: Instance
  /** When its stop began. */
  readonly stopAt: number
  readonly deadlineAt: number
  readonly streamLimitAt: number
  /** The process ended, or the stop did. */
  readonly endAt: number
}

function caseOf (world: World, policy: Policy, instance: Instance): Case | undefined {
  const stop = instance.moves.find(({ to }) => to === 'draining' || to === 'closing')
  if (stop === undefined) return undefined
  const marks = marksOf(world)
  const grace = marks.deadline - marks.abort
  const stopAt = stop.at
  const deadlineAt = Math.min(stopAt + marks.deadline, policy.hastenAt + grace)
  // A second signal leaves the abort grace, or what there is still of it, and half of that is for streams.
  const streamLimitAt = policy.hastenAt < Infinity
    ? Math.min(stopAt + marks.streamLimit, policy.hastenAt + (deadlineAt - policy.hastenAt) / 2)
    : stopAt + marks.streamLimit
  const endAt = Math.min(world.exitedAt ?? Infinity, instance.reports[0]?.at ?? Infinity)
  return { world, policy, instance, stopAt, deadlineAt, streamLimitAt, endAt }
}

const isLost = ({ endedAt, isAborted }: Accepted, endAt: number) => isAborted !== true && !(endedAt !== undefined && endedAt <= endAt)
const isWork = ({ kind }: PlannedHook) => kind === 'run' || kind === 'waitUntil' || kind === 'worker'
const isOwnHook = (hook: PlannedHook) => hook.kind === 'onDraining' || hook.kind === 'onClosing' || isWork(hook)
const isStreaming = ({ answer }: Accepted) => answer.startsWith('streams') || answer === 'begins, and ends'

export function check (world: World): void {
  const policy = policyOf(world)
  for (const instance of world.instances) {
    statesMoveForward(instance)
    readinessTellsTheTruth(world, instance)
    const the = caseOf(world, policy, instance)
    refusalsComeAfterDraining(instance)
    if (the === undefined) continue
    drainingEndsForAReason(the)
    nothingIsCutEarly(the)
    webSocketsAreTold(the)
    poolsOutliveJobs(the)
    theReportAgrees(the)
  }
  theProcessEnds(world, policy)
  theExitCodeIsHonest(world, policy)
  nothingIsLeft(world, policy)
}

function statesMoveForward ({ moves }: Instance): void {
  let state: State = 'starting'
  for (const { from, to } of moves) {
    assert.equal(from, state, 'every move begins where the last one ended')
    assert.ok(ORDER.indexOf(to) > ORDER.indexOf(from), `${from} -> ${to}: the state never moves backwards`)
    state = to
  }
}

function readinessTellsTheTruth ({ triggers, config }: World, { probes, moves }: Instance): void {
  const readyAt = moves.find(({ to }) => to === 'ready')?.at ?? Infinity
  assert.equal(config.readinessPath, '/health/ready')
  for (const { at, status, isAfterSignal } of probes) {
    if (isAfterSignal) assert.equal(status, 503, 'readiness is never 200 after the first signal')
    if (at < readyAt) assert.equal(status, 503, 'readiness is never 200 before the service is ready')
    if (at > readyAt && at < Math.min(...triggers.map((trigger) => trigger.at))) assert.equal(status, 200, 'readiness is 200 while the service is ready')
  }
}

function refusalsComeAfterDraining ({ refused }: Instance): void {
  for (const { state } of refused) {
    assert.ok(state === 'closing' || state === 'closed' || state === 'starting', `traffic was refused while ${state}`)
  }
}

/** The strategy has said so, the window is spent, or nobody wanted a wait. */
function drainingEndsForAReason ({ world, policy, instance, stopAt }: Case): void {
  const { config, plan } = world
  const marks = marksOf(world)
  const closingAt = instance.moves.find(({ to }) => to === 'closing')?.at
  if (closingAt === undefined) return
  const afterMs = closingAt - stopAt
  const { strategySettled } = instance
  if ([policy.noWaitAt, policy.hastenAt, policy.forcedAt].some((at) => at <= closingAt)) return
  if (!instance.wasListeningAtStop || afterMs >= marks.drainLimit || plan.strategy === 'none') return
  // The application closed it, or the report came at the backstop.
  if (world.exitedAt !== undefined && closingAt >= world.exitedAt) return
  if (plan.strategy === 'delay') {
    assert.ok(afterMs >= marks.drainEnd, `draining ended after ${afterMs} ms of ${marks.drainEnd} ms`)
    return
  }
  if (plan.strategy === 'function') {
    assert.ok(strategySettled !== undefined && strategySettled.at <= closingAt, 'the application\'s strategy has not spoken')
    if (strategySettled.isResolved) return
  }
  const traffic = instance.accepted.filter(({ isTraffic, at }) => isTraffic && at <= closingAt)
  if (traffic.length === 0 && config.platform === 'elsewhere' && instance.probes.every(({ at }) => at >= stopAt)) return
  const lastAt = Math.max(...traffic.map(({ at }) => at))
  const silenceMs = closingAt - lastAt
  // Arrivals before the signal are told apart in ticks of 20 ms.
  assert.ok(traffic.length === 0 || silenceMs >= config.quiet * 1000 - 20, `draining ended after a silence of ${silenceMs} ms, quiet is ${config.quiet} s`)
  if (afterMs >= marks.drainEnd) return
  assert.ok(traffic.length > 0, 'no silence is evidence where no request ever came')
  const observedMs = lastAt - Math.min(...traffic.map(({ at }) => at))
  assert.ok(observedMs >= Math.max(6000, config.quiet * 60_000) * 0.95, `draining ended by silence, but only ${observedMs} ms were watched`)
  for (const one of traffic) {
    const isOpen = !isStreaming(one) && one.cutAt === undefined && one.isAborted !== true && (one.endedAt ?? Infinity) > closingAt
    assert.ok(!isOpen, `draining ended by silence while ${one.path} waited for its answer`)
  }
}

function nothingIsCutEarly ({ instance, policy, deadlineAt, streamLimitAt, world, endAt }: Case): void {
  for (const { path, cutAt, answer } of instance.accepted) {
    if (cutAt === undefined || cutAt >= policy.forcedAt || cutAt >= endAt) continue
    const isStream = answer.startsWith('streams') || answer === 'begins, and ends'
    const limit = isStream ? streamLimitAt : deadlineAt
    assert.ok(cutAt >= limit, `${path} (${answer}) was cut at ${cutAt - world.firstTriggerAt} ms, ${limit - cutAt} ms before its limit`)
  }
}

function webSocketsAreTold ({ instance, policy, stopAt, deadlineAt, streamLimitAt, world, endAt }: Case): void {
  const { config } = world
  const { goodbyeGrace } = marksOf(world)
  for (const { path, told, cutAt } of instance.webSockets) {
    const [first] = told
    // What it hears after the end was forced comes from no process any more.
    if (config.websocketClose !== 'none' && first !== undefined && first.at < policy.forcedAt) {
      assert.equal(first.code, 1001, `${path}: the first thing it hears is 1001`)
      if (config.websocketClose === 'closing') assert.notEqual(first.state, 'draining', `${path} was told while draining`)
    }
    if (cutAt === undefined || cutAt >= policy.forcedAt || cutAt >= endAt) continue
    const limit = Math.min(streamLimitAt, deadlineAt, (first?.at ?? Infinity) + goodbyeGrace)
    assert.ok(cutAt >= limit, `${path} was cut ${limit - cutAt} ms before its limit`)
    assert.ok(cutAt > stopAt)
  }
}

/** What jobs need is closed by preClose and onClose hooks: not before the jobs have ended, or had all the time there was. */
function poolsOutliveJobs ({ instance, policy, deadlineAt }: Case): void {
  assert.equal(instance.hooks.filter(({ plan }) => plan.kind === 'worker').length, instance.workers, 'every worker is told to stop')
  const preCloseAt = instance.isClosedByApplication ? instance.preCloseAt ?? Infinity : Infinity
  const limit = Math.min(deadlineAt, policy.forcedAt, preCloseAt + PLUGIN_TIMEOUT_MS - 500)
  for (const { plan: { kind }, startedAt } of instance.hooks) {
    if ((kind !== 'preClose' && kind !== 'onClose') || startedAt >= limit) continue
    for (const job of instance.hooks) {
      if (isWork(job.plan)) assert.ok(job.endedAt !== undefined && job.endedAt <= startedAt, `a ${kind} hook began while a ${job.plan.kind} went on`)
    }
  }
}

/** Whatever this instance lost, cut, or failed at. */
function lossesOf ({ instance, stopAt, endAt, deadlineAt }: Case): string[] {
  const losses: string[] = []
  for (const accepted of instance.accepted) if (accepted.at <= endAt && isLost(accepted, endAt)) losses.push(`GET ${accepted.path}`)
  for (const { path, answeredAt, cutAt } of instance.webSockets) {
    if (cutAt !== undefined || answeredAt === undefined || answeredAt > endAt) losses.push(`WebSocket ${path}`)
  }
  // The application's own fastify.close() gives them as long as a preClose hook may take.
  const preCloseAt = instance.isClosedByApplication ? instance.preCloseAt ?? Infinity : Infinity
  for (const { plan, hasFailed, endedAt, startedAt } of instance.hooks) {
    if (startedAt > endAt) continue
    // Before the stop that was its caller's business; one that throws does so at once.
    if ((plan.kind === 'run' || plan.kind === 'waitUntil') && endedAt !== undefined && (endedAt < stopAt || plan.behaviour === 'throws')) continue
    if (hasFailed === true || endedAt === undefined || endedAt > endAt) losses.push(`${plan.kind} hook`)
    else if (isOwnHook(plan) && endedAt > preCloseAt + PLUGIN_TIMEOUT_MS - 500) losses.push(`${plan.kind} hook, too long for a plain close`)
    else if (plan.kind === 'preClose' && endedAt - startedAt >= PLUGIN_TIMEOUT_MS) losses.push('preClose hook, too long')
  }
  if (endAt >= deadlineAt) losses.push('the deadline')
  return losses
}

function theReportAgrees (the: Case): void {
  const { instance, stopAt, policy, world, endAt } = the
  assert.ok(instance.reports.length <= 1, 'one report')
  const [made] = instance.reports
  if (made === undefined) {
    // The process was ended from outside, or by `crash: 'exit'`, in the middle.
    assert.ok(policy.forcedAt < Infinity || policy.killedAt < Infinity || world.exitedAt === undefined, 'a stop that ends by itself reports')
    return
  }
  const { report, at } = made
  assert.equal(report.durations.totalMs, Math.round(at - stopAt))
  assert.equal(report.requests.inFlightAtSignal, instance.inFlightAtStop, 'in flight at the signal')
  const after = instance.accepted.filter((one) => one.at > stopAt && one.at <= at && one.isTraffic)
  assert.equal(report.requests.servedWhileDraining, after.filter(({ endedAt }) => endedAt !== undefined && endedAt <= at).length, 'served while draining')
  const lastAt = Math.max(...after.map((one) => one.at))
  assert.equal(report.requests.lastAfterMs, after.length > 0 ? Math.round(lastAt - stopAt) : null, 'the last request')
  if (after.length > 0) assert.equal(report.order, 'signal-first')
  assert.equal(report.cut.length, Math.min(report.cutCount, 100))
  const names = report.cut.map(({ name }) => name)
  const lost = instance.accepted.filter((one) => one.at <= endAt && isLost(one, at))
  for (const { path } of lost) assert.ok(names.includes(`GET ${path}`), `GET ${path} was lost, and the report names ${names.join(', ')}`)
  for (const { kind, name } of report.cut) {
    if (kind !== 'request' && kind !== 'response' && kind !== 'stream') continue
    assert.ok(lost.some(({ path }) => name === `GET ${path}`), `${name} is reported as cut, and was not lost`)
  }
  // What fails in Fastify's own hooks is told to whoever has called fastify.close(): the application, if it was no stop.
  const isPlain = world.triggers.every(({ kind, wasHeard, ended }) => kind === 'fastify.close()' || !wasHeard || ended.includes(instance))
  if (isPlain && instance.hooks.some(({ plan }) => !isOwnHook(plan))) return
  // Which of two things came first at one instant, the truth does not tell.
  if (policy.failedAt === at || policy.forcedAt === at) return
  const isFailed = lossesOf(the).length > 0 || policy.failedAt <= at || policy.forcedAt <= at
  assert.equal(report.exitCode, isFailed ? 1 : 0, `the report says ${report.exitCode}, lost: ${lossesOf(the).join(', ')}`)
}

function theProcessEnds (world: World, { exitAskedAt, forcedAt, killedAt }: Policy): void {
  const { exitedAt, instances } = world
  const marks = marksOf(world)
  const askedAt = Math.min(exitAskedAt, forcedAt)
  if (askedAt === Infinity || killedAt < Infinity) return
  assert.notEqual(exitedAt, undefined, 'the process ends')
  const stopAt = Math.min(...instances.flatMap(({ moves }) => moves.filter(({ to }) => to === 'draining' || to === 'closing').map(({ at }) => at)), askedAt)
  const endsBy = Math.max(stopAt, askedAt) + marks.end
  assert.ok(exitedAt! <= endsBy, `the process ended ${exitedAt! - askedAt} ms after it was told to, the deadline is ${marks.deadline} ms`)
}

function theExitCodeIsHonest (world: World, policy: Policy): void {
  const { host, exitedAt, instances } = world
  if (exitedAt === undefined) {
    assert.ok(policy.exitAskedAt === Infinity || policy.killedAt < Infinity)
    return
  }
  const losses: string[] = []
  for (const instance of instances) {
    const the = caseOf(world, policy, instance)
    // An instance whose stop was over before the process was told to end has left, and its report has said what it lost.
    const hasLeft = policy.ended.includes(instance)
    if (the !== undefined && !hasLeft) losses.push(...lossesOf(the))
  }
  if (policy.failedAt <= exitedAt) losses.push('an error that nobody caught')
  if (policy.forcedAt <= exitedAt) losses.push('the end was forced')
  assert.equal(host.exitCode, losses.length > 0 ? 1 : 0, `exit code ${host.exitCode}; lost: ${losses.join(', ')}`)
}

function nothingIsLeft (world: World, { forcedAt, killedAt }: Policy): void {
  const { exitedAt, host, tracked, instances } = world
  if (forcedAt < Infinity || killedAt < Infinity) return
  const isClosed = instances.every(({ state }) => state === 'closed')
  if (!isClosed || host.exitCode === 1) return
  assert.equal(tracked.pending.size, 0, 'no timer is left')
  if (exitedAt === undefined) assert.equal(host.listening, 0, 'no listener is left')
}
