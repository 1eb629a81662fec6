# A site of Django in one file. Django itself answers HEAD with a body, and leaves
# it to the server to drop it. A page tells who asked for what, in the form of an
# answer, as which it would be read if it came before one. X-Connection is the port
# from which the server was asked.
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path

settings.configure(DEBUG=False, SECRET_KEY='x', ALLOWED_HOSTS=['*'], ROOT_URLCONF=__name__, MIDDLEWARE=[])


def view(request):
    who = request.headers.get('X-Who') or request.headers.get('X-Forwarded-User', '')
    if request.path.startswith('/none'):
        answer = HttpResponse(status=204)
    else:
        text = who + ' asked ' + request.path
        answer = HttpResponse('HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(text), text))
    answer['X-Connection'] = request.META['REMOTE_PORT']
    return answer


urlpatterns = [re_path('', view)]
application = get_wsgi_application()
