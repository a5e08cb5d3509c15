// OpenAI's own client against a Postern: OPENAI_BASE_URL is its /v1, OPENAI_API_KEY
// a token of it. Each step makes one request and prints a line: what it is about,
// and what the client makes of the answer.
import OpenAI from 'openai'

const client = new OpenAI({ maxRetries: 0, timeout: 120_000 })
const stranger = new OpenAI({ maxRetries: 0, timeout: 120_000, apiKey: 'sk-wrong' })

const ask = (content, more) => ({ model: 'assistant', messages: [{ role: 'user', content }], ...more })
const told = e => `${e.constructor.name} ${e.status} ${e.type} ${e.code}: ${e.message}`

const plain = async body => {
  const { model, choices: [choice], usage } = await client.chat.completions.create(body)
  return `${model}, ${choice.finish_reason}, ${usage.total_tokens} tokens: ${choice.message.content}`
}

const streamed = async body => {
  let text = '', reason, usage
  try {
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? ''
      reason = chunk.choices[0]?.finish_reason ?? reason
      usage = chunk.usage ?? usage
    }
  } catch (e) {
    if (text) return `after "${text}" ${told(e)}`
    throw e
  }
  return `${reason}, ${usage?.total_tokens} tokens: ${text}`
}

// leave reads a stream to its first word and goes.
const leave = async body => {
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    if (chunk.choices[0].delta.content) return chunk.choices[0].delta.content
  }
}

const names = async list => (await list).data.map(m => m.id).join(' ')

const history = {
  model: 'assistant', max_tokens: 5, temperature: 0, stop: ['END'],
  messages: [
    { role: 'system', content: 'Be brief.' }, { role: 'user', content: 'one' },
    { role: 'assistant', content: 'two' }, { role: 'user', content: [{ type: 'text', text: 'three' }] },
  ],
}

for (const [name, step] of [
  ['the models', () => names(client.models.list())],
  ['one model', async () => (await client.models.retrieve('sumfrench')).id],
  ['one model that there is not', () => client.models.retrieve('gpt-4')],
  ['a chat', () => plain(ask('hello there'))],
  ['a chat with history and bounds', () => plain(history)],
  ['a stream', () => streamed(ask('hello\nthere \u2028 "you"'))],
  ['a stream with usage', () => streamed(ask('hello there', { stream_options: { include_usage: true } }))],
  ['a stream with history and bounds', () => streamed(history)],
  ['a wrong key', () => stranger.models.list()],
  ['a chat with a wrong key', () => stranger.chat.completions.create(ask('hello', { stream: true }))],
  ['an unknown model', () => plain(ask('hello', { model: 'gpt-4' }))],
  ['a stream of an unknown model', () => streamed(ask('hello', { model: 'gpt-4' }))],
  ['no message', () => plain({ model: 'assistant', messages: [] })],
  ['a model that fails', () => plain(ask('broken'))],
  ['a stream of a model that fails', () => streamed(ask('broken'))],
  ['a stream of a model that fails midway', () => streamed(ask('cut it off'))],
  ['a stream that is left', () => leave(ask('hang'))],
]) {
  console.log(`${name}: ${JSON.stringify(await step().catch(told))}`)
}
