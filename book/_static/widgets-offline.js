/* Lets the widget manager find its modules (anywidget) and icon fonts beside it instead of on a CDN. */
requirejs.config({ baseUrl: new URL((document.documentElement.dataset.content_root || "./") + "_static/vendor", document.baseURI).href });
