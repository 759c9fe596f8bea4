// One run of the simulation, judged; or many of them, from the command line:
//   npm run test:simulation -- RUNS SEED [PATH]

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import fc from 'fast-check'
import { type ReportMessage, type StateMessage } from '../../types/index.js'
import { check } from './invariants.js'
import { plan, type Plan } from './plan.js'
import { World } from './world.js'

/** @throws AssertionError for the first rule that does not hold */
export async function run (plan: Plan): Promise<World> {
  const world = new World(plan)
  const find = (fastify: unknown) => world.instances.find((instance) => instance.fastify === fastify)
  const moved = (message: unknown) => {
    const { fastify, from, to } = message as StateMessage
    find(fastify)?.moves.push({ at: world.clock.now(), from, to })
  }
  const reported = (message: unknown) => {
    const { fastify, report } = message as ReportMessage
    find(fastify)?.reports.push({ at: world.clock.now(), report })
  }
  subscribe('fastify-fargate.state', moved)
  subscribe('fastify-fargate.report', reported)
  try {
    await world.run()
  } finally {
    unsubscribe('fastify-fargate.state', moved)
    unsubscribe('fastify-fargate.report', reported)
  }
  check(world)
  return world
}

const [script = '', runs, seed, path] = process.argv.slice(1)
if (script.endsWith('simulation/run.ts')) {
  const result = await fc.check(fc.asyncProperty(plan, async (plan) => { await run(plan) }), {
    numRuns: Number(runs), seed: Number(seed), includeErrorInReport: true, ...(path !== undefined && { path })
  })
  if (result.failed) {
    console.log(fc.defaultReportMessage(result))
    console.log(`Again: npm run test:simulation -- ${runs} ${result.seed} ${result.counterexamplePath}`)
    process.exitCode = 1
  }
  console.log(JSON.stringify({ runs: result.numRuns, seed: result.seed }))
}
