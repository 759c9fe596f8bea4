// npm run demo: two instances of examples/api behind a proxy, under traffic. One is stopped in the order that AWS
// documents (deregistered, then SIGTERM), one in the order that Spot has been seen to use (SIGTERM, and the load balancer
// hears of it later). At the end: how many requests were lost.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request as send } from 'node:http'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Proxy } from './proxy.js'

const PER_SECOND = 120
// Silence counts only after sixty times `quiet` of traffic; a demonstration has no three minutes.
const SETTINGS = { FARGATE_QUIET: '0.1', FARGATE_STOP_TIMEOUT: '30', FARGATE_DEREGISTRATION_DELAY: '20' }
const WARM_UP_MS = 8000
const IGNORANCE_MS = 1500

const startedAt = performance.now()
const proxy = new Proxy()
const front = { port: await proxy.listen(), agent: new Agent({ keepAlive: true }) }
const account = { sent: 0, answered: 0, lost: [], byTarget: {} }
const tasks = []
const exitCodes = []

const [one, two] = await Promise.all([start('task-1'), start('task-2')])
const traffic = generate()
say(`two tasks serve ${PER_SECOND} requests a second; silence becomes evidence in ${WARM_UP_MS / 1000} s`)
const ticker = setInterval(tell, 2000)
await sleep(WARM_UP_MS)

say('\n1. the documented order: task-1 is deregistered, and gets SIGTERM 3 s later')
proxy.deregister('task-1')
await sleep(3000)
await stop(one)

await start('task-3')
say('\n2. the other order: task-2 gets SIGTERM, and the load balancer hears of it 1.5 s later')
const stopped = stop(two)
await sleep(IGNORANCE_MS)
say('   task-2 is deregistered')
proxy.deregister('task-2')
await stopped

clearInterval(ticker)
await traffic.stop()
proxy.close()
front.agent.destroy()
for (const task of tasks) task.child.kill('SIGKILL')
say(`\n${account.sent} requests sent, ${account.answered} answered, ${account.lost.length} lost`)
for (const loss of account.lost.slice(0, 10)) say(`   lost: ${loss}`)
process.exitCode = account.lost.length === 0 && exitCodes.every((code) => code === 0) ? 0 : 1

async function start (name) {
  const port = await freePort()
  const child = fork(new URL('../api/server.js', import.meta.url), {
    env: { ...process.env, ...SETTINGS, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'inherit', 'ipc']
  })
  const task = { name, child, report: undefined }
  tasks.push(task)
  const lines = createInterface({ input: child.stdout })
  const listening = new Promise((resolve) => {
    lines.on('line', (line) => {
      const record = JSON.parse(line)
      if (record.report !== undefined) task.report = record
      if (/^Server listening/.test(record.msg)) resolve()
      if (record.req === undefined && record.res === undefined && /draining|closing|pool/.test(record.msg)) say(`   ${name}: ${record.msg}`)
    })
  })
  await listening
  child.channel.unref()
  proxy.register(name, port)
  return task
}

async function stop (task) {
  const at = performance.now()
  task.child.kill('SIGTERM')
  const [code, signal] = await once(task.child, 'close')
  exitCodes.push(code)
  say(`   ${task.name}: ${task.report.msg}`)
  say(`   ${task.name}: exit code ${code ?? signal}, ${Math.round(performance.now() - at)} ms after SIGTERM; order seen: ${task.report.report.order}`)
}

function generate () {
  const pending = new Set()
  const timer = setInterval(() => {
    const request = ask(account.sent++).finally(() => pending.delete(request))
    pending.add(request)
  }, 1000 / PER_SECOND)
  return {
    async stop () {
      clearInterval(timer)
      await Promise.all(pending)
    }
  }
}

/** Lost is everything but a complete 2xx answer. */
function ask (number) {
  const [method, path] = number % 10 === 0 ? ['GET', `/reports/${number}`] : number % 5 === 0 ? ['POST', '/orders'] : ['GET', '/']
  return new Promise((resolve) => {
    const lose = (why) => {
      account.lost.push(`${method} ${path}: ${why}`)
      resolve()
    }
    const request = send({ host: '127.0.0.1', ...front, method, path, headers: method === 'POST' ? { 'content-type': 'application/json' } : {} })
    request.on('error', (error) => lose(error.code))
    request.on('response', (response) => {
      const target = response.headers['x-target']
      response.resume()
      response.on('error', (error) => lose(error.code))
      response.on('end', () => {
        if (response.statusCode >= 300) return lose(`status ${response.statusCode} from ${target}`)
        account.answered++
        account.byTarget[target] = (account.byTarget[target] ?? 0) + 1
        resolve()
      })
    })
    request.end(method === 'POST' ? JSON.stringify({ number }) : undefined)
  })
}

function tell () {
  const each = Object.entries(account.byTarget).map(([name, count]) => `${name} ${count}`).join(', ')
  say(`   ${account.answered} answered (${each}), ${account.lost.length} lost`)
}

function say (text) {
  const [, blank, rest] = /^(\n*)(.*)$/s.exec(text)
  console.log(`${blank}${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s  ${rest}`)
}

async function freePort () {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
