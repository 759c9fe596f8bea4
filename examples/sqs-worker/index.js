// npm run demo:worker: a queue, somebody who fills it, and a worker that is stopped with SIGTERM at random instants and
// replaced, as in a deployment. At the end: the account.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { GetQueueAttributesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs'
import { createSqsServer } from 'local-aws-sqs'

const ROUNDS = Number(process.argv[2] ?? 5)
const SEND_EVERY_MS = 25

const server = await createSqsServer({ port: 0, hostname: '127.0.0.1', queues: [{ QueueName: 'orders' }] })
const endpoint = `http://127.0.0.1:${server.address().port}`
const queueUrl = `${endpoint}/123456789012/orders`
const aws = { AWS_REGION: 'us-east-1', AWS_ACCESS_KEY_ID: 'none', AWS_SECRET_ACCESS_KEY: 'none', AWS_ENDPOINT_URL_SQS: endpoint }
Object.assign(process.env, aws, { NODE_NO_WARNINGS: '1' })
const sqs = new SQSClient()

const account = { sent: 0, processed: new Map(), exitCodes: [] }
const over = new AbortController()
// Ctrl-C: the worker gets the signal too, and the account is settled as ever.
process.on('SIGINT', () => { over.abort() })

const sender = send()
for (let round = 1; round <= ROUNDS && !over.signal.aborted; round++) {
  const worker = await start()
  const ms = Math.round(300 + Math.random() * 2000)
  await sleep(ms)
  say(`\n${round}. SIGTERM, ${ms} ms after the start; sent so far ${account.sent}, processed ${account.processed.size}`)
  await stop(worker)
}
over.abort()
await sender
say('\nthe last worker empties the queue')
const last = await start()
while ((await left()) > 0) await sleep(100)
await stop(last)
const deleted = account.sent - await left()
sqs.destroy()
server.closeAllConnections()
server.close()

const twice = [...account.processed.values()].filter((times) => times > 1).length
say(`\nsent ${account.sent}, processed ${account.processed.size}, deleted ${deleted}, processed twice ${twice}`)
process.exitCode = deleted === account.sent && account.processed.size === account.sent && twice === 0 && account.exitCodes.every((code) => code === 0) ? 0 : 1

async function send () {
  while (!over.signal.aborted) {
    await sqs.send(new SendMessageCommand({ QueueUrl: queueUrl, MessageBody: String(account.sent++) }))
    await sleep(SEND_EVERY_MS)
  }
}

async function left () {
  const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ['ApproximateNumberOfMessages'] }))
  return Number(Attributes.ApproximateNumberOfMessages)
}

async function start () {
  const child = fork(new URL('worker.js', import.meta.url), {
    env: { ...process.env, QUEUE_URL: queueUrl, PORT: '0', NIGHTLY: '*/2 * * * * *', FARGATE_STOP_TIMEOUT: '30' },
    stdio: ['ignore', 'pipe', 'inherit', 'ipc']
  })
  child.channel.unref()
  await new Promise((resolve) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const { msg, order } = JSON.parse(line)
      if (order !== undefined) account.processed.set(order, (account.processed.get(order) ?? 0) + 1)
      else if (/nightly|gave|closing|stopped/.test(msg)) say(`   ${msg}`)
      if (/^Server listening/.test(msg)) resolve()
    })
  })
  return child
}

async function stop (child) {
  const at = performance.now()
  const closed = once(child, 'close')
  child.kill('SIGTERM')
  const [code, signal] = await closed
  account.exitCodes.push(code)
  say(`   exit code ${code ?? signal}, ${Math.round(performance.now() - at)} ms after SIGTERM`)
}

function say (text) { console.log(text) }
