// Shows definitions to validators: node validate.mjs FOLDER < definitions > what they say.
// FOLDER is the one that npm installed into; definitions are `[{app, machine, text}]`.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.argv[2], 'index.js'))
const asl = require('asl-validator')
const { getLanguageService } = require('amazon-states-language-service')
const { TextDocument } = require('vscode-languageserver-textdocument')
const jsonata = require('jsonata')

const service = getLanguageService({})
const found = []
for (const { app, machine, text } of JSON.parse(readFileSync(0, 'utf8'))) {
  const say = (tool, rule, message) => found.push({ tool, rule, app, machine, message })
  for (const error of asl(JSON.parse(text)).errors) {
    say('asl-validator', error['Error code'], `${error.Message} ${JSON.stringify(error)}`.slice(0, 300))
  }
  const document = TextDocument.create(`file:///${machine}.asl.json`, 'asl', 1, text)
  for (const one of await service.doValidation(document, service.parseJSONDocument(document))) {
    say('language-service', String(one.code ?? one.message).slice(0, 60), `${one.message} at ${document.getText(one.range).slice(0, 200)}`)
  }
  for (const [, expression] of text.matchAll(/"\{%((?:[^"\\]|\\.)*)%\}"/g)) {
    try {
      jsonata(JSON.parse(`"${expression}"`))
    } catch (error) {
      say('asl-validator', 'jsonata', `${error.message} in ${expression}`)
    }
  }
}
process.stdout.write(JSON.stringify(found))
