// Any interleaving of signals, requests, slow and stuck handlers, throwing hooks, boot phases, strategies and settings, on a
// manual clock. A run that breaks a rule is shrunk to the smallest one that does, and printed with its seed.
// A longer one, with another seed: npm run test:simulation -- 200000 1

import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { bareEnvironment } from './support/service.js'

const RUNS = Number(process.env['SIMULATION_RUNS'] ?? 10_000)
const SEED = Number(process.env['SIMULATION_SEED'] ?? 20_261_124)
/** A fixed number, so that the seeds say which runs these are. */
const SHARES = 2

t.setTimeout(0)
t.jobs = Math.min(SHARES, availableParallelism())

// In processes of their own, as tap follows every promise: that takes three times as long as the simulation itself.
for (let share = 0; share < SHARES; share++) {
  const seed = SEED + share
  t.test(`in ${RUNS / SHARES} runs with seed ${seed} every rule holds`, { buffered: true }, async (t) => {
    const script = fileURLToPath(new URL('simulation/run.ts', import.meta.url))
    const args = ['--enable-source-maps', `--import=${new URL('support/typescript.js', import.meta.url).href}`, script, String(RUNS / SHARES), String(seed)]
    const child = spawn('env', [...bareEnvironment(), process.execPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
    const output = await text(child.stdout)
    const { runs } = JSON.parse(output.trim().split('\n').at(-1)!)
    t.equal(runs, RUNS / SHARES, output)
    t.notMatch(output, 'Property failed')
  })
}
