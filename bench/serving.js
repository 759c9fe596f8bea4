// What the plugin costs while serving. Two applications in one process, loaded in turns; the ratio of each pair of rounds
// is taken, and the median of all pairs, over several processes (the code's place in memory alone makes a difference of
// one or two per cent between two processes).
import { fork } from 'node:child_process'

const PROCESSES = Number(process.env.PROCESSES ?? 5)
const ROUNDS = Number(process.env.ROUNDS ?? 12)
const ROUND_MS = 500
const CONNECTIONS = 50

const here = (file) => new URL(file, import.meta.url).pathname
const next = (child) => new Promise((resolve) => { child.once('message', resolve) })
// A core for each, where there are two: else they share, and the ratio still holds.
const pinned = (core) => process.platform === 'linux' ? { execPath: 'taskset', execArgv: ['-c', String(core), process.execPath] } : {}

/** Median of the ratios of two targets. Throughput, and requests per second of the server's processor time. */
export async function compare (base, other, { basePath = '/', otherPath = '/' } = {}) {
  const throughput = []
  const processor = []
  for (let i = 0; i < PROCESSES; i++) {
    // Which of the two is compiled first must not matter either.
    const names = [...new Set(i % 2 === 0 ? [base, other] : [other, base])]
    const server = fork(here('serving-server.js'), names, pinned(1))
    const client = fork(here('load.js'), [], pinned(0))
    const [{ ports }] = await Promise.all([next(server), next(client)])
    const round = async (name, path, ms) => {
      const before = await ask(server)
      client.send({ port: ports[name], path, connections: CONNECTIONS, ms })
      const { answered } = await next(client)
      const after = await ask(server)
      return { answered, cost: (after.user + after.system - before.user - before.system) / answered }
    }
    await round(base, basePath, 1000)
    await round(other, otherPath, 1000)
    for (let r = 0; r < ROUNDS; r++) {
      const first = r % 2 === 0
      const one = first ? await round(base, basePath, ROUND_MS) : await round(other, otherPath, ROUND_MS)
      const two = first ? await round(other, otherPath, ROUND_MS) : await round(base, basePath, ROUND_MS)
      const [b, o] = first ? [one, two] : [two, one]
      throughput.push(o.answered / b.answered)
      processor.push(b.cost / o.cost)
    }
    server.kill('SIGKILL')
    client.kill('SIGKILL')
  }
  return { throughput: median(throughput), processor: median(processor), pairs: throughput.length }
}

async function ask (server) {
  server.send('cpu')
  return (await next(server)).cpu
}

function median (values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1]
}

function line (label, { throughput, processor, pairs }) {
  console.log(`${label.padEnd(52)} throughput ${(throughput * 100).toFixed(2)} %  per cpu second ${(processor * 100).toFixed(2)} %  (${pairs} pairs)`)
}

if (process.argv[1] === here('serving.js')) {
  line('hello world without the plugin against itself', await compare('bare', 'bare'))
  line('hello world, plugin against none', await compare('bare', 'plugin'))
  line('hello world with a logger, plugin against none', await compare('bare, logging', 'plugin, logging'))
  line('readiness route against a static route', await compare('plugin', 'plugin', { basePath: '/static', otherPath: '/health/ready' }))
}
