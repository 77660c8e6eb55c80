%% SPDX-License-Identifier: Apache-2.0
%% @doc What can go wrong at the start, the stop or the reload of a server: for machines a name
%% with facts, for humans a sentence.
-module(hornbeam_error).

-export([format/1]).
-export([text/1]).

-type name() ::
    address_in_use
    | already_started
    | app_import_failed
    | app_not_callable
    | app_not_found
    | bind_failed
    | chdir_failed
    | interrupted
    | invalid_options
    | lifespan_failed
    | lifespan_unsupported
    | loop_unavailable
    | not_started
    | python_not_found
    | startup_timeout
    | tls_failed
    | venv_not_found
    | worker_class_unsupported
    | worker_exited.

-type reason() :: {name(), Facts :: map()}.
%% The facts of each name are those that {@link format/1} prints; all texts are binaries.

-export_type([name/0, reason/0]).

%% A value in a message is cut after so many characters.
-define(MAX_VALUE_CHARS, 200).

%% API.

%% @doc One readable sentence about a reason. A term that is none is printed as it is.
%%
%% `app_import_failed' is followed by Python's traceback.
-spec format(term()) -> unicode:chardata().
format({Name, Facts} = Reason) when is_atom(Name), is_map(Facts) ->
    case sentence(Name, Facts) of
        unknown -> print(Reason);
        Sentence -> Sentence
    end;
format(Reason) ->
    print(Reason).

%% Internal.

sentence(address_in_use, Facts) ->
    ["the address ", fact(address, Facts), " is in use by another program"];
sentence(already_started, Facts) ->
    ["a server named ", fact(name, Facts), " is running already"];
sentence(app_import_failed, Facts) ->
    [
        ["importing the application ", fact(app, Facts), " failed: ", fact(message, Facts)],
        on_new_line(Facts)
    ];
sentence(app_not_callable, Facts) ->
    ["the application ", fact(app, Facts), " is no callable but of type ", fact(type, Facts)];
sentence(app_not_found, Facts) ->
    ["the application ", fact(app, Facts), " was not found: ", fact(message, Facts)];
sentence(bind_failed, Facts) ->
    ["listening on ", fact(address, Facts), " failed: ", fact(message, Facts)];
sentence(chdir_failed, Facts) ->
    ["changing the directory to ", fact(chdir, Facts), " failed: ", fact(message, Facts)];
sentence(interrupted, Facts) ->
    ["the server named ", fact(name, Facts), " has ended or was started anew before that was done"];
sentence(invalid_options, #{errors := Errors}) when is_list(Errors) ->
    invalid_options(Errors);
sentence(invalid_options, Facts) ->
    ["invalid options: ", print(Facts)];
sentence(lifespan_failed, Facts) ->
    ["the application's startup failed: ", fact(message, Facts)];
sentence(lifespan_unsupported, Facts) ->
    [
        "the application does not support lifespan, which the option lifespan => on requires: ",
        fact(message, Facts)
    ];
sentence(loop_unavailable, Facts) ->
    ["the event loop ", fact(loop, Facts), " is not available: ", fact(message, Facts)];
sentence(not_started, Facts) ->
    ["no server named ", fact(name, Facts), " is running"];
sentence(python_not_found, Facts) ->
    ["the Python interpreter ", fact(python, Facts), " was not found, or is not executable"];
sentence(startup_timeout, Facts) ->
    ["the application's startup took longer than ", fact(timeout_ms, Facts), " ms"];
sentence(tls_failed, Facts = #{option := _, file := _}) ->
    [
        ["setting up TLS failed: ", fact(option, Facts), of_host(Facts), " "],
        [fact(file, Facts), ": ", fact(message, Facts)]
    ];
sentence(tls_failed, Facts) ->
    ["setting up TLS failed: ", fact(message, Facts)];
sentence(venv_not_found, Facts) ->
    [
        ["the virtual environment ", fact(venv, Facts), " is missing or broken: "],
        [fact(python, Facts), " is not there, or is not executable"]
    ];
sentence(worker_class_unsupported, Facts) ->
    ["the application does not have the interface ", fact(worker_class, Facts),
     " that the option worker_class names"];
sentence(worker_exited, Facts) ->
    [
        ["worker ", fact(worker_id, Facts), " exited with status ", fact(status, Facts)],
        " before it was ready"
    ];
sentence(_, _) ->
    unknown.

invalid_options(Errors) ->
    ["invalid options: ", lists:join("; ", [invalid_option(Error) || Error <- Errors])].

invalid_option(#{key := Key, value := Value, expected := Expected}) ->
    [print(Key), " is ", print(Value), ", expected ", text(Expected)];
invalid_option(Error) ->
    print(Error).

of_host(#{host := Host}) -> [" of ", text(Host)];
of_host(_) -> "".

on_new_line(#{traceback := Traceback}) ->
    [$\n, text(Traceback)];
on_new_line(_) ->
    "".

fact(Key, Facts) ->
    case Facts of
        #{Key := Value} -> text(Value);
        #{} -> "(unknown)"
    end.

%% @private Text as it is, any other term as Erlang writes it.
-spec text(term()) -> unicode:chardata().
text(Value) ->
    case hornbeam_form:text(Value) of
        {ok, Text} -> Text;
        error -> print(Value)
    end.

print(Term) ->
    io_lib:format("~0tp", [Term], [{chars_limit, ?MAX_VALUE_CHARS}]).
