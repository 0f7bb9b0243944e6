/** Pictures that decoders take, made with Pillow. */

/** JPEG of 48 x 32 pixels, bright on the left. */
export const leftBright = Buffer.from(
  "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7gYKBTmCNl4x9lnN+" +
    "gXz/wAALCAAgADABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAAcG/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQAAPwDUglYKoCVgqgJWCqAlYP/Z",
  "base64",
);

/** JPEG of 48 x 32 pixels, bright at the bottom. */
export const bottomBright = Buffer.from(
  "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABQODxIPDRQSEBIXFRQYHjIhHhwcHj0sLiQySUBMS0dARkVQWnNiUFVtVkVGZIhlbXd7gYKBTmCNl4x9lnN+" +
    "gXz/wAALCAAgADABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAAYH/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQAAPwCUAAABqgAAAP/Z",
  "base64",
);

/** PNG of 7 x 5 pixels. */
export const smallPng = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAcAAAAFCAAAAACs8akEAAAAFElEQVR4nGMUYWBgYGBgYGLATwMAA/wAHmd2a+kAAAAASUVORK5CYII=",
  "base64",
);
