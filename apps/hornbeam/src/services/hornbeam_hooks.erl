%% SPDX-License-Identifier: Apache-2.0

%% @doc Services by path, in Python or Erlang, run where they are registered.
%%
%% ```
%% ok = hornbeam_hooks:register(<<"prices">>, fun(#{args := [Item]}) -> price(Item) end),
%% {ok, 5} = hornbeam_hooks:execute(<<"prices">>, undefined, [<<"tea">>]).
%%
%% {ok, Stream} = hornbeam_hooks:stream(<<"llm">>, <<"generate">>, [<<"Hello">>]),
%% {ok, Token} = hornbeam_hooks:next(Stream).
%% '''
%%
%% A path is answered by a worker that has registered it or by an Erlang handler: of this node the
%% one with the fewest invocations, else one of any connected node. Each invocation of an Erlang
%% handler runs in a process of its own, which is killed when its caller has gone.
%%
%% A handler is a fun, or a module with this behaviour. It gets a {@link request()} and returns the
%% result. For a stream it calls the fun `emit' with each item, which waits until the consumer takes
%% it, and returns `ok' at its end; or it returns a list of items. A handler that crashes gives its
%% caller a `remote_error'.
-module(hornbeam_hooks).

%% API
-export([register/2]).
-export([unregister/1]).
-export([execute/3]).
-export([execute/4]).
-export([stream/3]).
-export([stream/4]).
-export([next/1]).
-export([cancel/1]).

-export_type([path/0, handler/0, request/0, options/0, stream/0, error/0]).

-type path() :: string() | binary().

-type request() :: #{
    path := binary(),
    method := binary() | undefined,
    args := list(),
    kwargs := map(),
    kind := call | stream,
    emit => fun((Item :: term()) -> ok)
    %% For a stream; to be called in the handler's own process.
}.

-type handler() :: fun((request()) -> term()) | module().

-type options() :: #{
    kwargs => #{binary() => term()},
    %% Keyword arguments. Default none.
    timeout => timeout()
    %% Milliseconds for the result, or for each item of a stream. Default 5000.
}.

-type error() :: hornbeam_hook_call:error().

-opaque stream() :: {Relay :: pid(), Tag :: reference()}.
%% Of the process that has opened it.

-callback handle(request()) -> term().

-define(TIMEOUT_MS, 5000).
%% Items that may be under way to a consumer.
-define(WINDOW_ITEMS, 16).

%% @doc Answer for a path on this node. A path that is registered again means the new handler.
-spec register(path(), handler()) -> ok.
register(Path, Handler) when is_function(Handler, 1); is_atom(Handler) ->
    hornbeam_hook_registry:register_handler(to_binary(Path), Handler).

%% @doc No longer answer for it; whether there was an Erlang handler. Invocations that run go on.
-spec unregister(path()) -> boolean().
unregister(Path) ->
    hornbeam_hook_registry:unregister_handler(to_binary(Path)).

%% @equiv execute(Path, Method, Args, #{})
-spec execute(path(), Method :: path() | undefined, Args :: list()) ->
    {ok, term()} | {error, error()}.
execute(Path, Method, Args) ->
    execute(Path, Method, Args, #{}).

%% @doc Invoke a service and wait for its result. Without a method the service itself is called.
-spec execute(path(), Method :: path() | undefined, Args :: list(), options()) ->
    {ok, term()} | {error, error()}.
execute(Path, Method, Args, Options) ->
    Invocation = invocation(Path, Method, Args, Options, call),
    case hornbeam_task:run(fun() -> hornbeam_hook_call:run(Invocation) end, timeout_ms(Options)) of
        {ok, Blob} -> hornbeam_blob:decode(Blob);
        {error, _} = Error -> Error
    end.

%% @equiv stream(Path, Method, Args, #{})
-spec stream(path(), Method :: path() | undefined, Args :: list()) ->
    {ok, stream()} | {error, error()}.
stream(Path, Method, Args) ->
    stream(Path, Method, Args, #{}).

%% @doc Invoke a service that gives items one by one. The stream belongs to the caller and ends with
%% it. A few items at most are under way before {@link next/1} asks for them.
-spec stream(path(), Method :: path() | undefined, Args :: list(), options()) ->
    {ok, stream()} | {error, error()}.
stream(Path, Method, Args, Options) ->
    Invocation = invocation(Path, Method, Args, Options, stream),
    Owner = self(),
    Tag = make_ref(),
    Sink = fun(Event) -> Owner ! {hornbeam_stream, Tag, Event} end,
    Relay = hornbeam_hook_stream:start(Owner, Sink, Invocation, timeout_ms(Options)),
    case receive_event({Relay, Tag}) of
        opened ->
            hornbeam_hook_stream:give_credit(Relay, ?WINDOW_ITEMS),
            {ok, {Relay, Tag}};
        {not_opened, Error} ->
            {error, Error}
    end.

%% @doc The next item; `done' when there are no more.
-spec next(stream()) -> {ok, term()} | done | {error, error()}.
next({Relay, _} = Stream) ->
    case receive_event(Stream) of
        {item, Blob} ->
            hornbeam_hook_stream:give_credit(Relay, 1),
            hornbeam_blob:decode(Blob);
        {stream_error, Error} ->
            {error, Error};
        stream_end ->
            done
    end.

%% @doc Have no more of it: the service's invocation ends.
-spec cancel(stream()) -> ok.
cancel({Relay, Tag}) ->
    Monitor = monitor(process, Relay),
    hornbeam_hook_stream:cancel(Relay),
    receive {'DOWN', Monitor, process, _, _} -> drop_events(Tag) end.

%%% Internal

%% The relay's last event comes before its end; without one, the end has been read already.
receive_event({Relay, Tag}) ->
    Monitor = monitor(process, Relay),
    receive
        {hornbeam_stream, Tag, Event} ->
            demonitor(Monitor, [flush]),
            Event;
        {'DOWN', Monitor, process, _, _} ->
            stream_end
    end.

drop_events(Tag) ->
    receive {hornbeam_stream, Tag, _} -> drop_events(Tag)
    after 0 -> ok
    end.

invocation(Path, Method, Args, Options, Kind) when is_list(Args) ->
    Kwargs = maps:get(kwargs, Options, #{}),
    {to_binary(Path), method(Method), hornbeam_blob:encode(Args), hornbeam_blob:encode(Kwargs),
     Kind}.

method(undefined) -> undefined;
method(Method) -> to_binary(Method).

timeout_ms(Options) ->
    maps:get(timeout, Options, ?TIMEOUT_MS).

to_binary(Text) ->
    {ok, Binary} = hornbeam_form:text(Text),
    Binary.
