// A queue of SQS: a server that speaks its protocol, and the real client of the SDK.

import { type Server } from 'node:http'
import { type AddressInfo } from 'node:net'
import { GetQueueAttributesCommand, SendMessageBatchCommand, SQSClient } from '@aws-sdk/client-sqs'
import { createSqsServer } from 'local-aws-sqs'
import { type Owner } from './app.js'

export interface Queue {
  readonly client: () => SQSClient
  readonly queueUrl: string
  /** Messages whose bodies are numbers that go on where the last ones ended. */
  send: (count: number) => Promise<void>
  /** All that the queue still has; `hidden` is what somebody has received and neither deleted nor given back. */
  left: () => Promise<{ messages: number, hidden: number }>
}

export async function startQueue (t: Owner): Promise<Queue> {
  const server: Server = await createSqsServer({ port: 0, hostname: '127.0.0.1', queues: [{ QueueName: 'orders' }] } as Parameters<typeof createSqsServer>[0])
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const clients: SQSClient[] = []
  const client = () => {
    const made = new SQSClient({ region: 'us-east-1', endpoint, credentials: { accessKeyId: 'none', secretAccessKey: 'none' } })
    clients.push(made)
    return made
  }
  t.teardown(() => {
    for (const made of clients) made.destroy()
    server.closeAllConnections()
    server.close()
  })
  const own = client()
  const queueUrl = `${endpoint}/123456789012/orders`
  let sent = 0
  return {
    client,
    queueUrl,
    async send (count) {
      for (; count > 0; count -= 10) {
        const Entries = Array.from({ length: Math.min(10, count) }, () => ({ Id: String(sent), MessageBody: String(sent++) }))
        await own.send(new SendMessageBatchCommand({ QueueUrl: queueUrl, Entries }))
      }
    },
    async left () {
      const { Attributes = {} } = await own.send(new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ['All'] }))
      return { messages: Number(Attributes['ApproximateNumberOfMessages']), hidden: Number(Attributes['ApproximateNumberOfMessagesNotVisible']) }
    }
  }
}
