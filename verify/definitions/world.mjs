// What the definitions talk to, as far as they can tell: functions that do to each object what its fate says, a table of
// rows, a dead-letter queue, and a queue that hands out again what is given back.

import { createHash } from 'node:crypto'
import { Broken, Failed, Machine } from './interpreter.mjs'

const PREPROCESSED = 180000 // bytes of an answer at most, as the functions keep them
const INFERRED = 80000
const STEP = 20 // milliseconds for an object
const ISOLATED = 500 // milliseconds more for an object in a process of its own
const PATIENCE = 3000 // milliseconds that an object may take there

const DEATHS = ['Lambda.Unknown', 'Sandbox.Timedout']

/** Fates that end as a dead letter, and those that end as a row. */
export const POISONS = ['raises', 'kills', 'hangs', 'kills the model', 'hangs the model', 'breaks postprocessing', 'is no event']
export const GOOD = ['good', 'rejected']

export class World {
  /**
   * @param jsonata the reference implementation
   * @param app machines by ARN, handlers and timeouts of functions, the queue's limit and the ARN where it leads
   * @param scenario objects with their fates, and what is wrong with the services
   */
  constructor (jsonata, app, scenario) {
    this.jsonata = jsonata
    this.app = app
    this.scenario = scenario
    this.rows = new Map()
    this.dead = new Map()
    this.done = new Set()
    this.started = new Map()
    this.now = 0
    this.invocations = 0
    this.largest = 0
    this.problems = []
  }

  /** Deliver until nothing is left in the queue, and say what is wrong with the end. */
  async play () {
    let waiting = this.scenario.objects.map((object, index) => this.message(object, index))
    this.messages = new Map(waiting.map((message) => [message.message_id, message]))
    this.deliveries = 0
    while (waiting.length > 0) {
      if (++this.deliveries > this.scenario.deliveries) {
        if (this.scenario.endless) return this.endless(waiting)
        this.problems.push(`after ${this.deliveries - 1} deliveries there are still ${waiting.length} in the queue`)
        break
      }
      const alive = waiting.filter((message) => message.receive_count <= this.app.redrive)
      for (const message of waiting) if (!alive.includes(message)) this.bury(message.message_id, 'redrive')
      if (alive.length === 0) break
      waiting = (await this.deliver(alive)).map((message) => ({ ...message, receive_count: message.receive_count + 1 }))
    }
    for (const execution of this.started.values()) await this.execute(execution)
    this.judge()
    return this.problems
  }

  /** Say what is wrong if nothing could be done about objects that are not to blame. */
  endless (waiting) {
    for (const id of this.messages.keys()) {
      if (!waiting.some((message) => message.message_id === id)) this.problems.push(`${id} ${this.ended(id)}, with nobody to blame`)
    }
    return this.problems
  }

  async deliver (batch) {
    // As the input template makes it: text, but for the body.
    const input = batch.map(({ message_id, receive_count, body }) =>
      ({ message_id, ...(this.app.counts ? { receive_count: String(receive_count) } : {}), body }))
    const ended = await this.run(this.app.entry, input, this.now)
    this.now = ended.now + 1000
    if (ended.status !== 'SUCCEEDED') {
      if (!this.scenario.mayFail) this.problems.push(`the execution ${ended.status}: ${ended.error} ${ended.cause}`)
      return batch
    }
    const back = ended.output.batchItemFailures.map((one) => one.itemIdentifier)
    if (new Set(back).size !== back.length) this.problems.push(`given back twice: ${back}`)
    for (const id of back) {
      if (!batch.some((message) => message.message_id === id)) this.problems.push(`given back, but never got: ${id}`)
      if (this.ended(id)) this.problems.push(`given back, but ${this.ended(id)}: ${this.fate(id)} ${id}`)
    }
    const lost = batch.filter((message) => !back.includes(message.message_id) && !this.ended(message.message_id))
    for (const { message_id: id } of lost) this.problems.push(`lost: ${this.fate(id)} ${id}`)
    return batch.filter((message) => back.includes(message.message_id))
  }

  ended (id) {
    if (this.rows.has(id)) return 'has a row'
    if (this.dead.has(id)) return 'is a dead letter'
    if (this.done.has(id)) return 'is done'
    return [...this.started.values()].some((one) => one.ids.includes(id)) ? 'was handed over' : undefined
  }

  judge () {
    const gpu = this.started.size > 0
    for (const id of this.messages.keys()) {
      const fate = this.fate(id)
      const row = this.rows.get(id)
      const dead = this.dead.has(id)
      const says = `${row ?? 'no row'}${dead ? ' and a dead letter' : ''}`
      let right
      if (fate === 'superseded') right = !row && !dead
      else if (this.scenario.unavailable) right = gpu ? dead : row === 'SUCCEEDED' && !dead
      else if (GOOD.includes(fate)) right = row === (fate === 'good' ? 'SUCCEEDED' : 'REJECTED') && !dead
      // A GPU workflow writes a row for what it buries.
      else right = dead && (row === undefined || (gpu && row === 'FAILED'))
      if (!right) this.problems.push(`${fate} ${id} ends with ${says}`)
    }
  }

  fate (id) {
    return this.objects.get(id).fate
  }

  message (object, index) {
    const key = object.key ?? `photo-${index}.jpg`
    const message_id = `message-${index}`
    this.objects ??= new Map()
    this.objects.set(message_id, object)
    const detail = { bucket: { name: 'inbox' }, object: { key, size: object.size ?? 100, etag: 'e', 'version-id': `v${index}`, sequencer: '00' } }
    const body = { source: 'aws.s3', 'detail-type': 'Object Created', time: '2026-01-01T00:00:00Z', detail }
    return { message_id, receive_count: object.received ?? 1, body: object.fate === 'is no event' ? `no event, ${message_id}` : body }
  }

  async run (machine, input, now) {
    const about = this.app.machines[machine]
    about.compiled ??= new Map()
    const runner = new Machine(this.jsonata, about.definition, (...call) => this.call(...call))
    runner.compiled = about.compiled
    const ended = await runner.run(input, now)
    this.largest = Math.max(this.largest, runner.largest)
    return ended
  }

  async execute ({ machine, input, now, ids }) {
    const ended = await this.run(machine, input, now)
    for (const id of ids.filter((id) => !this.rows.has(id) && !this.dead.has(id))) {
      if (ended.status === 'SUCCEEDED') this.problems.push(`lost by the GPU workflow: ${id}`)
      else this.bury(id, 'undelivered') // a rule reports the execution there
    }
  }

  async call (integration, args, clock, state) {
    switch (integration) {
      case 'dynamodb:getItem': // of a release in its first step
        return { Item: { status: { S: 'RUNNING' }, step: { N: '0' }, share: { N: '50' }, compared: { N: '50' } } }
      case 'dynamodb:updateItem':
        return this.count(args)
      case 'lambda:invoke': {
        const Payload = this.invoke(args.FunctionName, args.Payload, clock)
        return { ExecutedVersion: '7', Payload, StatusCode: 200 }
      }
      case 'lambda:invoke.waitForTaskToken': // the callback function hands over what the endpoint answers
        return { Payload: this.announced(args, clock) }
      case 'sqs:sendMessage':
        return this.send(args, clock)
      case 'states:startExecution':
        return args.Input.items === undefined ? await this.compareWith(args, clock) : this.start(args, clock)
      case 'aws-sdk:s3:getObjectTagging':
        this.lookUp(args, clock)
        return { TagSet: this.tagsOf(args.Key) }
      case 'aws-sdk:s3:headObject':
        this.lookUp(args, clock)
        return { Metadata: this.byKey(args.Key).metadata ?? {} }
      default:
        throw new Broken(`${state} calls ${integration}, which the scenarios do not know`)
    }
  }

  invoke (name, payload, clock) {
    const about = this.app.functions[name]
    if (about === undefined) throw new Broken(`no function has the name ${name}`)
    this.invocations++
    if (payload['cdk-inference'] === 'warm') return null
    this.refuse(this.scenario.lambda, about, clock)
    return this[about.does](JSON.parse(JSON.stringify(payload)), new Invocation(about, clock))
  }

  /** Run the model as an endpoint does: it announces that its container died. */
  announced ({ FunctionName, Payload: { request } }, clock) {
    try {
      return this.invoke(FunctionName, request, clock)
    } catch (error) {
      if (!DEATHS.includes(error.error)) throw error
      throw new Failed('SageMakerModelError', error.cause)
    }
  }

  /** Fail a call as a scenario says: for the first so many calls, until some time, or always. */
  refuse (fault, about, clock) {
    if (fault === undefined || (fault.of !== undefined && about.does !== fault.of)) return
    fault.left ??= fault.times ?? Infinity
    if (fault.left <= 0 || clock.now > (fault.until ?? Infinity)) return
    fault.left--
    clock.now += fault.takes ?? 10
    throw new Failed(fault.error, 'as the scenario says')
  }

  preprocess ({ messages, isolate = false }, invocation) {
    const answer = { items: [], rejected: [], retry: [], failed: [], unfinished: [] }
    for (const message of messages) this.read(message, isolate, answer, invocation)
    const indices = answer.items.map((_, index) => index).filter((index) => !answer.rejected.some((one) => one.index === index))
    const left = PREPROCESSED - JSON.stringify(answer).length - 1000
    if (left < 0) throw new Failed('StageError', 'the metadata is too large')
    // So that the model knows whose tensors it gets.
    const whose = indices.map((index) => answer.items[index].message_id).join() + '|'
    const data = whose.padEnd(this.scenario.large ? left : 0, 'A')
    const inputs = { image: { dtype: 'uint8', shape: [indices.length, 8], data } }
    return { ...answer, groups: indices.length ? [{ indices, inputs }] : [] }
  }

  /** Read the object of a message: as an item, or as what became of it before it was one. */
  read (message, isolate, answer, invocation) {
    const id = message.message_id
    const fate = this.fate(id)
    if (isolate && invocation.left() < PATIENCE + 1000) return answer.unfinished.push(id)
    invocation.spend(isolate ? STEP + ISOLATED : STEP)
    const failed = (error) => answer.failed.push({ message_id: id, error, cause: `of ${id}` })
    if (fate === 'is no event') return failed('MalformedMessageError')
    if (fate === 'superseded') return this.done.add(id)
    if (fate === 'raises') return failed('ValueError')
    if (fate === 'kills' || fate === 'hangs') {
      if (!isolate) throw fate === 'kills' ? new Failed('Runtime.ExitError', 'signal: killed') : invocation.timeout()
      invocation.spend(PATIENCE)
      return failed(fate === 'kills' ? 'ItemCrashedError' : 'ItemTimeoutError')
    }
    if (later(this.scenario.unserved)) return answer.retry.push(id)
    const { object } = message.body.detail
    answer.items.push({
      id: createHash('sha256').update(id).digest('hex'), bucket: 'inbox', key: object.key, version_id: object['version-id'],
      etag: 'e', size: 100, sequencer: '00', event_time: '2026-01-01T00:00:00Z', message_id: id
    })
    if (fate === 'rejected') answer.rejected.push({ index: answer.items.length - 1, reason: 'it is no image' })
  }

  infer ({ groups, only }, invocation) {
    const items = this.prepared(groups)
    for (const { index, fate } of items) {
      if (only && !only.includes(index)) continue
      invocation.spend(STEP)
      if (fate === 'kills the model') throw new Failed('Lambda.Unknown', 'signal: killed')
      if (fate === 'hangs the model') throw invocation.timeout()
    }
    const kept = groups.map((group) => ({ indices: group.indices.filter((index) => !only || only.includes(index)) }))
    const count = Math.max(1, kept.flatMap((group) => group.indices).length)
    const data = 'A'.repeat(this.scenario.large ? INFERRED / count - 200 : 40)
    return {
      groups: kept.filter((group) => group.indices.length).map(({ indices }) => ({ indices, outputs: { logits: { dtype: 'float32', shape: [indices.length, 10], data: data.repeat(indices.length) } } })),
      model_version: '0123456789ab',
      inference: 'cpu',
      confidences: kept.flatMap((group) => group.indices).map((index) => ({ index, confidence: items.find((one) => one.index === index).sure }))
    }
  }

  /** Return the objects whose tensors these are, by index. */
  prepared (groups) {
    return groups.flatMap(({ indices, inputs }) => {
      const ids = inputs.image.data.split('|')[0].split(',')
      return indices.map((index, place) => ({ index, fate: this.fate(ids[place]), sure: this.objects.get(ids[place]).sure ?? 1 }))
    })
  }

  postprocess ({ items, rejected = [], groups, unsure, only, failed = [] }, invocation) {
    const answer = { retry: [], failures: [], unsure: [], succeeded: 0, rejected: 0, failed: 0 }
    const outcomes = new Map(groups.flatMap((group) => group.indices).map((index) => [index, 'SUCCEEDED']))
    for (const one of rejected) outcomes.set(one.index, 'REJECTED')
    for (const one of failed) if (!outcomes.has(one.index)) outcomes.set(one.index, 'FAILED')
    for (const [index, { message_id: id }] of items.entries()) {
      if (only && !only.includes(index)) continue
      invocation.spend(STEP)
      const outcome = outcomes.get(index)
      const doubt = (unsure ?? []).find((one) => one.index === index)
      if (outcome === undefined) answer.failures.push({ message_id: id, error: 'StageError', cause: 'nothing came' })
      else if (outcome === 'SUCCEEDED' && this.fate(id) === 'breaks postprocessing') {
        answer.failures.push({ message_id: id, error: 'ValueError', cause: 'in user code' })
      } else if (doubt) answer.unsure.push({ message_id: id, answer: { route: 'small', confidence: doubt.confidence, prediction: 'A'.repeat(this.scenario.large ? 1500 : 10) } })
      else if (later(this.scenario.table)) answer.retry.push(id)
      else this.rows.set(id, outcome)
    }
    return answer
  }

  fused ({ messages, isolate = false }, invocation) {
    const read = this.preprocess({ messages, isolate }, invocation)
    const inferred = this.infer(read, invocation)
    const written = this.postprocess({ ...read, ...inferred, failed: [] }, invocation)
    return {
      ...written,
      retry: [...read.retry, ...written.retry],
      failures: [...read.failed, ...written.failures],
      unfinished: read.unfinished
    }
  }

  /** Add to what a release counts: each object once, at its first delivery. */
  count ({ Key, ExpressionAttributeValues }) {
    if (Key.record.S !== 'step-0') throw new Broken(`a release counts for ${Key.record.S}`)
    for (const [name, { N }] of Object.entries(ExpressionAttributeValues)) {
      if (!/^\d+$/.test(N)) throw new Broken(`a release counts ${name} ${N}`)
      this.counted = (this.counted ?? 0) + Number(N)
    }
    if (this.counted > this.messages.size) this.problems.push(`a release counts ${this.counted} of ${this.messages.size} objects`)
    return {}
  }

  /** Run the comparison of two models, which nobody waits for. */
  async compareWith ({ StateMachineArn, Input }, clock) {
    clock.now += STEP
    const ids = Input.messages.map((message) => message.message_id)
    if (new Set(ids).size !== ids.length) this.problems.push(`compared twice: ${ids}`)
    const before = this.compared
    const ended = await this.run(StateMachineArn, JSON.parse(JSON.stringify(Input)), clock.now)
    if (ended.status === 'FAILED') this.problems.push(`the comparison failed: ${ended.error} ${ended.cause}`)
    const harmless = ids.every((id) => [...GOOD, 'superseded'].includes(this.fate(id))) && !this.scenario.lambda
    if (ids.length > 0 && harmless && this.compared === before) this.problems.push(`${ids} were not compared`)
    return { ExecutionArn: 'compared', StartDate: 'now' }
  }

  compare ({ stable, candidate, stable_ms, candidate_ms }) {
    this.compared = (this.compared ?? 0) + 1
    const right = [stable, ...(candidate === null ? [] : [candidate])].every((arm) =>
      [arm.items, arm.failed, arm.groups].every(Array.isArray) && [...arm.items, ...arm.failed].every((one) => this.messages.has(one.message_id)))
    if (!right) this.problems.push(`compared: ${JSON.stringify([stable, candidate]).slice(0, 300)}`)
    if (typeof stable_ms !== 'number' || typeof candidate_ms !== 'number') this.problems.push(`compared: ${stable_ms} ${candidate_ms}`)
    return {}
  }

  decide ({ messages }) {
    const decisions = {}
    const failed = []
    for (const { message_id: id } of messages) {
      const { decision } = this.objects.get(id)
      if (decision !== undefined) decisions[id] = decision
      else failed.push({ message_id: id, error: 'ValueError', cause: 'of the user' })
    }
    return { decisions, failed }
  }

  byKey (key) {
    return this.scenario.objects.find((object, index) => (object.key ?? `photo-${index}.jpg`) === key)
  }

  lookUp ({ Key }, clock) {
    clock.now += STEP
    this.refuse(this.scenario.s3, {}, clock)
    if (this.byKey(Key) === undefined) throw new Broken(`no object has the key ${Key}`)
  }

  tagsOf (key) {
    const long = this.scenario.large ? 9 : 0
    const others = Array.from({ length: long }, (_, n) => ({ Key: `${n}`.repeat(128), Value: `${n}`.repeat(256) }))
    return [...Object.entries(this.byKey(key).tags ?? {}).map(([Key, Value]) => ({ Key, Value })), ...others]
  }

  send ({ QueueUrl, MessageBody, MessageAttributes = {} }, clock) {
    clock.now += STEP
    if (QueueUrl !== this.app.deadLetters) throw new Broken(`a message for ${QueueUrl}`)
    for (const [name, { DataType, StringValue }] of Object.entries(MessageAttributes)) {
      if (DataType !== 'String' || typeof StringValue !== 'string' || StringValue === '') throw new Broken(`attribute ${name} is ${JSON.stringify(StringValue)}`)
    }
    if (typeof MessageBody !== 'string') throw new Broken(`the body is a ${typeof MessageBody}`)
    this.refuse(this.scenario.sqs, {}, clock)
    const id = this.idOf(MessageBody)
    this.bury(id, 'sent')
    return { MessageId: `dead ${id}` }
  }

  /** Return which message a dead letter is. */
  idOf (body) {
    const odd = /no event, (message-\d+)/.exec(body)
    if (odd) return odd[1]
    const key = JSON.parse(body).detail.object.key
    const index = this.scenario.objects.findIndex((object, index) => (object.key ?? `photo-${index}.jpg`) === key)
    if (index < 0) throw new Broken(`a dead letter of nothing: ${body}`)
    return `message-${index}`
  }

  bury (id, how) {
    if (this.dead.has(id)) this.problems.push(`two dead letters of ${id}`)
    this.dead.set(id, how)
  }

  start ({ StateMachineArn, Name, Input }, clock) {
    clock.now += STEP
    this.refuse(this.scenario.states, {}, clock)
    if (this.started.has(Name)) throw new Failed('StepFunctions.ExecutionAlreadyExistsException')
    const ids = Input.items.map((item) => item.message_id)
    const twice = ids.filter((id) => [...this.started.values()].some((one) => one.ids.includes(id)))
    if (twice.length) this.problems.push(`handed over twice: ${twice}`)
    this.started.set(Name, { machine: StateMachineArn, input: Input, now: clock.now, ids })
    return { ExecutionArn: Name, StartDate: 'now' }
  }
}

/** Return whether something is still to fail, and count it. */
function later (fault) {
  return fault !== undefined && fault.times-- > 0
}

class Invocation {
  constructor (about, clock) {
    this.clock = clock
    this.ends = clock.now + about.timeout * 1000
  }

  left () {
    return this.ends - this.clock.now
  }

  spend (milliseconds) {
    this.clock.now += milliseconds
    if (this.clock.now > this.ends) throw this.timeout()
  }

  timeout () {
    this.clock.now = this.ends
    return new Failed('Sandbox.Timedout', 'Task timed out')
  }
}
